"""column.json: the description of a column. It is written last; a column without it is incomplete."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Interval, Len

from vilbert.documents import Constraint, Count, Digest, document
from vilbert.pipeline.errors import CorruptShardError
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.columns.layout import COLUMN_FILE
from vilbert.pipeline.shards.dataset import MAX_CHANNELS, DatasetInfo, fingerprint_digest, read_info
from vilbert.pipeline.shards.format_number import parse_document
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.location.layout import DATASET_FILE

Member = Literal["npy", "json", "regions"]
"""How each value is stored: an array as KEY.NAME.npy, a JSON value as KEY.NAME.json, regions as a sample of a data set
(KEY.boxes.npy, ..., KEY.json)."""
Boxes = Literal["base", "own"]
"""Boxes of a column of regions: those of the data set, or its own."""
REMEDY = "drop the column with `vilbert column drop` and add it again"
DTYPES = ("float16", "float32", "uint16")
"""dtypes of arrays."""


Side = Annotated[int, Interval(ge=0, le=MAX_CHANNELS)] | Annotated[str, Constraint("pattern", "^N$")] | None


@document
class ColumnFile:
    """The content of column.json."""

    name: str
    """Name of the folder, and the part after the key in member names."""
    base: Digest
    """records_sha256 of the data set that the column belongs to."""
    member: Member
    dtype: Annotated[str, Constraint("pattern", f"^({'|'.join(DTYPES)})$")] | None
    """NumPy name of the dtype of arrays, or of the features of regions; None for JSON values."""
    shape: Annotated[tuple[Side, ...], Len(1, 2)] | None
    """Shape of arrays: "N" is the number of the sample's regions, None varies between samples."""
    shards: Count
    samples: Count
    """Number of values in all shards."""
    missing: Count
    """Number of samples of the data set without a value."""
    bytes: Count
    """Size of all tar files."""
    fingerprint: Digest
    """`fingerprint_digest(fingerprint_fields)`."""
    fingerprint_fields: dict[str, Any]
    """Facts that determine the values: the imported file's SHA-256 and how it was read."""
    records_sha256: Digest
    """`record.records_digest` of the column's records."""
    boxes: Boxes = "base"
    """Boxes of the regions; stored only for columns of regions. Format 2."""


@dataclass(frozen=True, kw_only=True)
class ColumnInfo(ColumnFile):
    """A column: its column.json and, for regions, their dataset.json."""

    regions: DatasetInfo | None = None
    """dataset.json of a column of regions, with their fields and classes."""

    @property
    def of_regions(self) -> int | None:
        """Vector size M if the column has a vector for each region of the data set, else None."""
        match self.shape:
            case ("N", int(side)) if self.boxes == "base":
                return side
        return None


def describe_column(
    name: str, written: DatasetInfo, base: DatasetInfo, *, member: Member, boxes: Boxes = "base"
) -> ColumnInfo:
    """Return the column.json of a column that was written as a data set (features or regions).

    Args:
        name: Name of the column.
        written: The complete dataset.json in the column's folder.
        base: The dataset.json of the data set that the column belongs to.
        member: "npy" for features, "regions" for complete samples.
        boxes: Boxes of the regions.
    """
    fields = {**written.fingerprint_fields, "base": str(base.records_sha256)}
    return ColumnInfo(
        name=name,
        base=str(base.records_sha256),
        member=member,
        dtype=str(written.fields["features"]["dtype"]),
        shape=("N", written.feature_dim),
        shards=written.shards,
        samples=written.totals.samples,
        missing=base.totals.samples - written.totals.samples,
        bytes=written.totals.bytes,
        fingerprint=fingerprint_digest(fields),
        fingerprint_fields=fields,
        records_sha256=str(written.records_sha256),
        boxes=boxes,
        regions=written if member == "regions" else None,
    )


def encode_column(info: ColumnInfo) -> bytes:
    """Return the bytes of column.json, in format 2 for a column of regions, else in format 1."""
    values = {field.name: getattr(info, field.name) for field in dataclasses.fields(ColumnFile)}
    if info.member != "regions":
        del values["boxes"]
    return encode_json({"format": 2 if info.member == "regions" else 1, **values}, indent=2) + b"\n"


def read_column(folder: Folder) -> ColumnInfo | None:
    """Return the column.json of a column's folder, or None if it does not exist or failed samples are being retried.

    Raises:
        CorruptShardError: The file is damaged.
    """
    data = folder.read(COLUMN_FILE)
    if data is None:
        return None
    regions = None if folder.read(DATASET_FILE) is None else read_info(folder)
    if regions is not None and not regions.complete:
        return None  # `extract --add-to --retry-failed` was interrupted, and rewrites column.json
    path = Path(folder.name, COLUMN_FILE)
    file, number = parse_document(ColumnFile, data, path=path, remedy=REMEDY, since_2=("boxes",))
    info = ColumnInfo(**vars(file), regions=regions if file.member == "regions" else None)
    if problem := _contradiction(info, number):
        raise CorruptShardError(problem, path=path, remedy=REMEDY)
    return info


def _contradiction(info: ColumnInfo, number: int) -> str | None:
    """Return an inconsistency in a column.json with this format number, or None."""
    if info.fingerprint != fingerprint_digest(info.fingerprint_fields):
        return "fingerprint is not that of fingerprint_fields"
    if number != (2 if info.member == "regions" else 1):
        return f"format is {number} with member {info.member}"
    if (info.member != "json") != (info.dtype is not None and info.shape is not None):
        return f"dtype and shape do not match member {info.member}"
    if info.member == "regions":
        if info.regions is None:
            return f"{DATASET_FILE} of its regions is missing"
        features = info.regions.fields["features"]
        stored = features["dtype"], tuple(features["shape"]), info.regions.records_sha256, info.regions.shards
        if stored != (info.dtype, info.shape, info.records_sha256, info.shards):
            return f"{DATASET_FILE} of its regions describes others"
    return None


def why_unusable(found: ColumnInfo | None, base: DatasetInfo) -> str | None:
    """Return why the values of a column cannot be used with a data set and what to do, or None if they can.

    Args:
        found: The result of `read_column`.
        base: The dataset.json of the data set.
    """
    if found is None:
        return "is not finished; run the command that writes it again"
    if found.base != base.records_sha256 or found.shards != base.shards:
        return "is of an older state of the data set; drop it with `vilbert column drop` and add it again"
    return None
