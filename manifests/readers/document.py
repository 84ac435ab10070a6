"""Annotation files that are one JSON document: read as a whole and checked for required keys."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vilbert.manifests.readers.repeated_keys import RepeatedKeys, mark_rows, repeated_key
from vilbert.manifests.record import ManifestError
from vilbert.manifests.regular_file import require_regular
from vilbert.untrusted.documents import DocumentError, read_json

_MAX_DIGITS = 10  # digits of a number below 2**31; int() raises for more than 4,300


def read_document(
    path: Path,
    lists: Sequence[str],
    *,
    optional: Sequence[str] = (),
    drop: Sequence[str] = (),
    bare: str | None = None,
) -> dict[str, Any]:
    """Return the JSON object in a file.

    Rows of the lists that contain a duplicate key are returned as `RepeatedKeys`; elsewhere a duplicate key is refused.

    Args:
        path: The file.
        lists: Keys that must hold a list of objects.
        optional: Keys that may be missing, and then hold an empty list.
        drop: Keys that are discarded at every level during parsing (the polygons of an instances file take gigabytes as
            Python lists).
        bare: Key for a document that consists only of a list; None requires an object.

    Raises:
        ManifestError: The file is invalid. The message names the file and the place.
        OSError: The file cannot be opened.
    """

    def without(value: dict[str, Any]) -> dict[str, Any]:
        for name in drop:
            value.pop(name, None)
        return value

    marked: list[str] = []

    def mark(value: dict[str, Any], key: str) -> RepeatedKeys:
        marked.append(key)
        return RepeatedKeys(value, key)

    require_regular(path)
    try:
        document = read_json(
            path, object_hook=without if drop else None, repeated=mark, allow_surrogates=True, allow_nan=True
        )
    except DocumentError as error:
        raise ManifestError(f"{path}: {error}; is the download complete?") from None
    if bare is not None and isinstance(document, list):
        document = {bare: document}
    if not isinstance(document, dict):
        raise ManifestError(f"{path}: not a JSON object; see docs/manifests.md for the formats")
    if isinstance(document, RepeatedKeys):
        raise ManifestError(f"{path}: key {document.key!r:.80} appears twice in the document; remove one")
    for key in (*lists, *optional):
        rows = document.setdefault(key, []) if key in optional else document.get(key)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise ManifestError(f"{path}: no list of objects under {key!r}; see docs/manifests.md for the formats")
        if marked:
            mark_rows(rows)
    for name, value in document.items() if marked else ():
        if name not in (*lists, *optional) and (repeated := repeated_key(value)) is not None:
            raise ManifestError(f"{path}: key {repeated!r:.80} appears twice in one object under {name!r}; remove one")
    return document


def pixels(value: object) -> int | None:
    """Return a width or height given as a positive integer or its digits, or None for any other value."""
    if isinstance(value, str) and len(value) <= _MAX_DIGITS and value.isdecimal():
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**31 else None
