"""Read a JSON document of the data set strictly: known format number, exactly the known fields, each of its kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from vilbert.pipeline.errors import CorruptShardError, ShardError, UnsupportedFormatError
from vilbert.pipeline.shards.canonical import decode_json
from vilbert.pipeline.shards.sample import FORMATS

Check = Callable[[Any], bool]
MAX_COUNT = 2**53
"""Counts and sizes are below it: no file is larger, and sums of many still fit into 64 bits."""


def is_text(value: Any) -> bool:
    """Say whether `value` is a string."""
    return isinstance(value, str)


def is_count(value: Any) -> bool:
    """Say whether `value` is an integer from 0 to `MAX_COUNT`."""
    return type(value) is int and 0 <= value < MAX_COUNT


def is_digest(value: Any) -> bool:
    """Say whether `value` is a SHA-256 in lower-case hex."""
    return isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None


def is_counts(value: Any) -> bool:
    """Say whether `value` is an object of counts."""
    return isinstance(value, dict) and all(is_count(count) for count in value.values())


def is_texts(value: Any) -> bool:
    """Say whether `value` is an array of strings."""
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def is_object(value: Any) -> bool:
    """Say whether `value` is an object."""
    return isinstance(value, dict)


def or_null(check: Check) -> Check:
    """Return a check that null passes too."""
    return lambda value: value is None or check(value)


def read_bytes(path: Path) -> bytes:
    """Return a file's content; raise ShardError where it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error


def parse_document(
    data: bytes,
    checks: Mapping[str, Check],
    *,
    path: Path,
    remedy: str,
    since_2: Mapping[str, Check] | None = None,
    optional: Mapping[str, Check] | None = None,
) -> dict[str, Any]:
    """Return the fields of a document of a known format number, and the number as `format`.

    Args:
        data: The file's content.
        checks: The fields of every format, each with its check.
        path: Of the file, for messages.
        remedy: What to do with a damaged one.
        since_2: The fields that documents of format 2 have besides.
        optional: The fields that documents of format 2 may have besides.

    Raises UnsupportedFormatError for another number, CorruptShardError naming the field for everything else.
    """
    try:
        document = decode_json(data)
    except ValueError as error:
        raise CorruptShardError(f"is not JSON ({error})", path=path, remedy=remedy) from error
    if not isinstance(document, dict):
        raise CorruptShardError("is not a JSON object", path=path, remedy=remedy)
    number = document.pop("format", None)
    if not is_count(number):
        raise CorruptShardError(f"format is {number!r}, expected {FORMATS[-1]}", path=path, remedy=remedy)
    if number not in FORMATS:
        raise UnsupportedFormatError(
            f"{path}: has format {number}, this version reads up to {FORMATS[-1]}: "
            "use the version of vilbert-pipeline that wrote it, or extract into another folder"
        )
    later = {**(since_2 or {}), **{name: check for name, check in (optional or {}).items() if name in document}}
    check_fields(document, {**checks, **(later if number > 1 else {})}, path=path, remedy=remedy)
    return {**document, "format": number}


def check_fields(
    document: Mapping[str, Any], checks: Mapping[str, Check], *, path: Path, remedy: str, place: str = ""
) -> None:
    """Raise CorruptShardError unless the document has exactly the fields of `checks`, each passing its check.

    place: where in the file the document lies, to begin the message with.
    """
    if odd := sorted(document.keys() ^ checks.keys()):
        state = "is missing" if odd[0] in checks else "is not a field of this format"
        raise CorruptShardError(f"{place}{odd[0]} {state}", path=path, remedy=remedy)
    for name, check in checks.items():
        if not check(document[name]):
            raise CorruptShardError(f"{place}{name} is {document[name]!r:.100}", path=path, remedy=remedy)
