"""The rows of the manifest that gave no sample: one line of JSON each, in `failures/NNNNNN.jsonl`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from vilbert.pipeline.errors import CorruptShardError
from vilbert.pipeline.shards.canonical import decode_json, encode_json
from vilbert.pipeline.shards.documents import Check, check_fields, is_count, is_object, is_text, read_bytes

_CHECKS: dict[str, Check] = {"row": is_count, "image_id": is_text, "uri": is_text, "reason": is_text, "detail": is_text}


@dataclass(frozen=True, kw_only=True)
class FailureRow:
    """Why one row of the manifest gave no sample."""

    row: int
    """Its number in the manifest, from 0."""
    image_id: str
    """As in the manifest."""
    uri: str
    """As in the manifest."""
    reason: str
    """A code to count by, of the documented set."""
    detail: str
    """What exactly was wrong, for a person."""


def encode_failures(rows: Iterable[FailureRow]) -> bytes:
    """Return the file of failures, ordered by row; empty for no rows."""
    return b"".join(_encode_row(row) for row in sorted(rows, key=lambda row: row.row))


def _encode_row(row: FailureRow) -> bytes:
    # A message may quote a file name that is not UTF-8; a failure must always be writable.
    detail = row.detail.encode("utf-8", "backslashreplace").decode("utf-8")
    return encode_json({**dataclasses.asdict(row), "detail": detail}) + b"\n"


def read_failures(path: Path) -> list[FailureRow]:
    """Return the rows of a file of failures; raise CorruptShardError naming the line where it is damaged."""
    *lines, rest = read_bytes(path).split(b"\n")
    remedy = "delete the shard's record in shards/ and run the same `vilbert extract` or `vilbert convert` again"
    if rest:
        raise CorruptShardError(f"line {len(lines) + 1} is cut short", path=path, remedy=remedy)
    rows = []
    for number, line in enumerate(lines, start=1):
        try:
            document = decode_json(line)
        except ValueError as error:
            raise CorruptShardError(f"line {number} is not JSON ({error})", path=path, remedy=remedy) from error
        if not is_object(document):
            raise CorruptShardError(f"line {number} is not a JSON object", path=path, remedy=remedy)
        check_fields(document, _CHECKS, path=path, remedy=remedy, place=f"line {number}: ")
        rows.append(FailureRow(**document))
    return rows
