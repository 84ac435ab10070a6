"""One entry of a folder's listing, on a disk or in an object store."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """What a listing says of a file or folder."""

    name: str
    """Inside the listed folder."""
    size: int | None
    """Bytes; None for what is not a file."""
    changed: int
    """When its content or its place last changed, in nanoseconds since 1970; 0 where that is not known."""
