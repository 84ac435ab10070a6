"""One entry of a folder's listing, on a disk or in an object store."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """A file or folder in a listing."""

    name: str
    """Name inside the listed folder."""
    size: int | None
    """Size in bytes; None if it is not a file."""
    changed: int
    """Time of the last change of content or location, in nanoseconds since 1970; 0 if unknown."""
