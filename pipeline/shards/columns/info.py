"""column.json: what an imported column holds. Written last: a column without it is not finished."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from vilbert.pipeline.errors import CorruptShardError
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.columns.layout import COLUMN_FILE
from vilbert.pipeline.shards.dataset import MAX_CHANNELS, fingerprint_digest, read_info
from vilbert.pipeline.shards.documents import Check, is_count, is_digest, is_object, is_text, or_null, parse_document
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.location.layout import DATASET_FILE

Member = Literal["npy", "json"]
"""How each value is stored: an array as KEY.NAME.npy, any other value as KEY.NAME.json."""
DTYPES = ("float16", "float32", "uint16")
"""Of arrays."""


def _is_shape(value: Any) -> bool:
    sides = isinstance(value, list) and 1 <= len(value) <= 2
    return sides and all(side in ("N", None) or (is_count(side) and side <= MAX_CHANNELS) for side in value)


_CHECKS: dict[str, Check] = {
    "name": is_text,
    "base": is_digest,
    "member": lambda value: value in ("npy", "json"),
    "dtype": or_null(lambda value: value in DTYPES),
    "shape": or_null(_is_shape),
    "shards": is_count,
    "samples": is_count,
    "missing": is_count,
    "bytes": is_count,
    "fingerprint": is_digest,
    "fingerprint_fields": is_object,
    "records_sha256": is_digest,
}


@dataclass(frozen=True, kw_only=True)
class ColumnInfo:
    """The content of column.json."""

    name: str
    """Its folder's name, and what follows the key in the names of members."""
    base: str
    """records_sha256 of the data set that it belongs to."""
    member: Member
    dtype: str | None
    """Of arrays, NumPy's name; None for JSON values."""
    shape: tuple[int | str | None, ...] | None
    """Of arrays: "N" is the number of the sample's regions, None differs from sample to sample."""
    shards: int
    samples: int
    """Values in all shards."""
    missing: int
    """Samples of the data set that have no value."""
    bytes: int
    """Size of all tar files."""
    fingerprint: str
    """`fingerprint_digest(fingerprint_fields)`."""
    fingerprint_fields: dict[str, Any]
    """What the values depend on: the imported file's SHA-256 and how it was read."""
    records_sha256: str
    """`record.records_digest` of its records."""

    @property
    def of_regions(self) -> int | None:
        """M where each region has a vector of M numbers, else None."""
        match self.shape:
            case ("N", int(side)):
                return side
        return None


def encode_column(info: ColumnInfo) -> bytes:
    """Return the bytes of column.json."""
    return encode_json({"format": 1, **dataclasses.asdict(info)}, indent=2) + b"\n"


def read_column(folder: Folder) -> ColumnInfo | None:
    """Return the column.json of a column's folder, None where it does not exist or failed samples are being retried.

    Raises:
        CorruptShardError: It is damaged.
    """
    data = folder.read(COLUMN_FILE)
    if data is None:
        return None
    if folder.read(DATASET_FILE) is not None and not read_info(folder).complete:
        return None  # `extract --add-to --retry-failed` was interrupted, and writes column.json anew
    path, remedy = Path(folder.name, COLUMN_FILE), "drop the column with `vilbert column drop` and add it again"
    document = parse_document(data, _CHECKS, path=path, remedy=remedy)
    del document["format"]
    info = ColumnInfo(**{**document, "shape": None if document["shape"] is None else tuple(document["shape"])})
    if info.fingerprint != fingerprint_digest(info.fingerprint_fields):
        raise CorruptShardError("fingerprint is not that of fingerprint_fields", path=path, remedy=remedy)
    if (info.member == "npy") != (info.dtype is not None and info.shape is not None):
        raise CorruptShardError(f"dtype and shape do not go with member {info.member}", path=path, remedy=remedy)
    return info
