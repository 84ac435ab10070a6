"""Annotation files that are one JSON document: read whole, checked for the keys that a reader needs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from manifests.record import ManifestError
from manifests.regular_file import require_regular
from vilbert.untrusted.documents import DocumentError, read_json

_MAX_DIGITS = 10  # of a number below 2**31; int() raises for more than 4,300


def read_document(
    path: Path, lists: Sequence[str], *, optional: Sequence[str] = (), drop: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the JSON object in a file.

    lists: names that must hold a list of objects. optional: names that do, or become an empty list.
    drop: names thrown away wherever they stand, as the file is parsed (the polygons of an instances file take gigabytes
    as Python lists).
    Raises ManifestError naming the file and the place, OSError where it cannot be opened.
    """

    def without(value: dict[str, Any]) -> dict[str, Any]:
        for name in drop:
            value.pop(name, None)
        return value

    require_regular(path)
    try:
        document = read_json(path, object_hook=without if drop else None, allow_surrogates=True, allow_nan=True)
    except DocumentError as error:
        raise ManifestError(f"{path}: {error}; is the download complete?") from None
    if not isinstance(document, dict):
        raise ManifestError(f"{path}: not a JSON object; see docs/manifests.md for the formats")
    for key in (*lists, *optional):
        rows = document.setdefault(key, []) if key in optional else document.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ManifestError(f"{path}: no list of objects under {key!r}; see docs/manifests.md for the formats")
    return document


def pixels(value: object) -> int | None:
    """Return a width or height that is a positive whole number, given as a number or as its digits; else None."""
    if isinstance(value, str) and len(value) <= _MAX_DIGITS and value.isdecimal():
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31 else None
