"""Failed manifest rows: one line of JSON each, in `failures/NNNNNN.jsonl`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from vilbert.documents import Count, document, from_json
from vilbert.pipeline.errors import CorruptShardError
from vilbert.pipeline.shards.canonical import decode_json, encode_json
from vilbert.pipeline.shards.format_number import read_bytes
from vilbert.untrusted.documents import DocumentError


@document
class FailureRow:
    """A manifest row without a sample, and the reason."""

    row: Count
    """Row number in the manifest, from 0."""
    image_id: str
    """As in the manifest."""
    uri: str
    """As in the manifest."""
    reason: str
    """Code of the failure, one of the documented set."""
    detail: str
    """Description of the failure."""


def encode_failures(rows: Iterable[FailureRow]) -> bytes:
    """Return the file of failures, ordered by row; empty for no rows."""
    return b"".join(_encode_row(row) for row in sorted(rows, key=lambda row: row.row))


def _encode_row(row: FailureRow) -> bytes:
    # A message may quote a file name that is not UTF-8; a failure must always be writable.
    detail = row.detail.encode("utf-8", "backslashreplace").decode("utf-8")
    return encode_json({**dataclasses.asdict(row), "detail": detail}) + b"\n"


def read_failures(path: Path) -> list[FailureRow]:
    """Return the rows of a file of failures. Raise CorruptShardError, naming the line, if it is damaged."""
    *lines, rest = read_bytes(path).split(b"\n")
    remedy = "delete the shard's record in shards/ and run the same `vilbert extract` or `vilbert convert` again"
    if rest:
        raise CorruptShardError(f"line {len(lines) + 1} is truncated", path=path, remedy=remedy)
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            values = decode_json(line)
        except ValueError as error:
            raise CorruptShardError(f"line {number} is not JSON ({error})", path=path, remedy=remedy) from error
        try:
            rows.append(from_json(FailureRow, values))
        except DocumentError as error:
            raise CorruptShardError(f"line {number}: {error}", path=path, remedy=remedy) from None
    return rows
