"""Read a document of a data set that has a format number: dataset.json, records, column.json."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TypeVar

from vilbert.documents import from_json
from vilbert.pipeline.errors import CorruptShardError, ShardError, UnsupportedFormatError
from vilbert.pipeline.shards.canonical import decode_json
from vilbert.pipeline.shards.sample import FORMATS
from vilbert.untrusted.documents import DocumentError

T = TypeVar("T")


def read_bytes(path: Path) -> bytes:
    """Return a file's content. Raise ShardError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise ShardError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from error


def parse_document(
    kind: type[T], data: bytes, *, path: Path, remedy: str, since_2: Collection[str] = ()
) -> tuple[T, int]:
    """Return a document and its format number.

    Args:
        kind: Class of the document, see `vilbert.documents`.
        data: The file's content.
        path: Path of the file, for messages.
        remedy: What to do with a damaged file.
        since_2: Optional fields that exist since format 2.

    Raises:
        UnsupportedFormatError: The format number is newer than this version supports.
        CorruptShardError: The document is invalid. The message names the first invalid key.
    """
    try:
        document = decode_json(data)
    except ValueError as error:
        raise CorruptShardError(f"is not JSON ({error})", path=path, remedy=remedy) from error
    if not isinstance(document, dict):
        raise CorruptShardError("is not a JSON object", path=path, remedy=remedy)
    number = document.pop("format", None)
    if type(number) is not int or number < 1:
        raise CorruptShardError(f"format is {number!r:.100}, expected {FORMATS[-1]}", path=path, remedy=remedy)
    if number not in FORMATS:
        raise UnsupportedFormatError(
            f"{path}: has format {number}, this version reads up to {FORMATS[-1]}: "
            "use the version of vilbert-pipeline that wrote it, or extract into another folder"
        )
    try:
        if number == 1 and (later := sorted(document.keys() & set(since_2))):
            raise DocumentError(f"{later[0]} is not a field of this format")
        return from_json(kind, document, optional=since_2), number
    except DocumentError as error:
        raise CorruptShardError(str(error), path=path, remedy=remedy) from None
