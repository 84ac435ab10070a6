"""dataset.json: the description of a data set, with totals once it is complete."""

from __future__ import annotations

import dataclasses
import hashlib
import operator
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Interval, Len
from typing_extensions import TypedDict

from vilbert.documents import Constraint, Count, Counts, Digest, List, document
from vilbert.pipeline.errors import CorruptShardError
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.format_number import parse_document, read_bytes
from vilbert.pipeline.shards.location.folder import Folder, LocalFolder, not_a_dataset
from vilbert.pipeline.shards.location.layout import DATASET_FILE, StorageFormat
from vilbert.pipeline.shards.record import ShardRecord
from vilbert.pipeline.shards.sample import FIELDS, describe_fields, format_of
from vilbert.pipeline.shards.storage.atomic import write_atomic
from vilbert.settings import ShardSize, Validator

_REMEDY = "restore it from a copy, or extract into another folder"


MAX_CHANNELS = 1 << 16
"""Maximum number of feature channels, or of classes, per region: models and batches are allocated with it."""
_SINCE_2 = ("shard_starts", "converted")


def _require_value(value: Any) -> Any:
    if value is None:
        raise ValueError("must be a list")
    return value


@document
class Totals:
    """Totals over the finished shards."""

    samples: Count
    """Number of samples in all shards."""
    failures: Counts
    """Number of failed rows by reason."""
    bytes: Count
    """Size of all files of samples."""
    dropped: Counts = field(default_factory=dict)
    """Rows that the settings exclude on purpose, by reason."""


NOTHING = Totals(samples=0, failures={}, bytes=0)
"""Totals of a data set without finished shards."""


class ConvertedSource(TypedDict):
    """A source of `vilbert convert`: its name and the hash of its content."""

    name: str
    format: str
    rows: Count
    content: Digest
    fingerprint: Digest


class ConvertStep(TypedDict):
    """A `vilbert convert` command: the rows that it wrote, its sources and its operations."""

    rows: Count
    sources: Annotated[list[ConvertedSource], Len(1), Constraint("fail_fast", True)]
    operations: dict[str, Any]


@document
class DatasetInfo:
    """The content of dataset.json.

    Shard i holds the rows [i * shard_size, (i + 1) * shard_size), or those given by `shard_starts`. Rows are those of
    the manifest or, for a converted data set, those of its sources in order.
    """

    storage: StorageFormat
    """Storage format of the shards."""
    shard_size: ShardSize
    """Rows per shard; the last may have fewer. With `shard_starts`, the maximum samples and failures of a shard."""
    shard_starts: Annotated[List[Count] | None, Validator("after", _require_value)] = None
    """First row of each shard, if dropped rows or splits make the number of rows vary. Format 2."""
    rows: Count
    """Number of rows that the data set covers, starting with the first."""
    limit: Count | None = None
    """The `--limit` with which `rows` is smaller than the manifest; None for the whole manifest."""
    manifest: str
    """Path of the manifest as given to the command; empty for a converted data set."""
    manifest_hash: str
    """The manifest's content hash; for a converted data set the hash of `steps`."""
    fields: dict[str, dict[str, Any]]
    """Arrays of a sample in stored order: dtype and shape by name, see `sample.describe_fields`."""
    feature_dim: Annotated[int, Interval(ge=0, le=MAX_CHANNELS)]
    """Number of feature channels per region, D."""
    class_names: List[str]
    """Names by class id; 0 is the background."""
    attribute_names: List[str]
    """Names by attribute id; empty if the detector has no attributes."""
    fingerprint: Digest
    """`fingerprint_digest(fingerprint_fields)`."""
    fingerprint_fields: dict[str, Any]
    """Everything that determines the regions: weights, detector, decoding, selection, dtype, format number."""
    software: dict[str, str]
    """Versions of software in the first run, by name; informative, not part of the fingerprint."""
    converted: Annotated[List[ConvertStep], Len(1)] = ()
    """The `vilbert convert` commands that wrote the rows: `rows`, `sources` and `operations` of each. Format 2."""
    complete: bool = False
    """Whether all shards are done; the following fields are empty until then."""
    splits: Counts = field(default_factory=dict)
    """Number of samples by split."""
    totals: Totals = NOTHING
    """Totals over all shards."""
    records_sha256: Digest | None = None
    """`record.records_digest` of all records: one hash for the data set's content."""

    def __post_init__(self) -> None:
        if self.complete == (self.records_sha256 is None):
            raise ValueError("records_sha256 must be set if and only if the data set is complete")
        starts = self.shard_starts
        if starts is not None and (
            not starts or starts[0] != 0 or starts[-1] >= self.rows or any(map(operator.ge, starts, starts[1:]))
        ):
            raise ValueError(f"shard_starts do not ascend from 0 to less than the {self.rows} rows")
        if self.converted and sum(step["rows"] for step in self.converted) != self.rows:
            raise ValueError(f"the rows of `converted` do not add up to {self.rows}")
        for number, step in enumerate(self.converted):
            if sum(source["rows"] for source in step["sources"]) != step["rows"]:
                raise ValueError(f"converted[{number}] has {step['rows']} rows, not the sum of its sources")

    @property
    def format(self) -> int:
        """Format number of the data set."""
        later = self.totals.dropped or self.converted or self.shard_starts is not None
        return max(2 if later else 1, format_of(self.fields))

    @property
    def steps(self) -> dict[str, Any]:
        """Sources and operations of a converted data set, without file names."""
        return {
            f"step {number}": {
                "operations": step["operations"],
                **{
                    f"source {place}": {name: value for name, value in source.items() if name != "name"}
                    for place, source in enumerate(step["sources"], start=1)
                },
            }
            for number, step in enumerate(self.converted, start=1)
        }

    @property
    def top_classes(self) -> int:
        """Number of most probable classes stored per region, K; 0 without class probabilities."""
        return int(self.fields["class_ids"]["shape"][1]) if "class_ids" in self.fields else 0

    @property
    def shards(self) -> int:
        """Number of shards of the complete data set."""
        if self.shard_starts is not None:
            return len(self.shard_starts)
        return -(-self.rows // self.shard_size)

    def shard_rows(self, shard: int) -> tuple[int, int]:
        """Return the rows [start, stop) that a shard covers. Raise IndexError if the shard does not exist."""
        if not 0 <= shard < self.shards:
            raise IndexError(f"shard {shard} of {self.shards}")
        if self.shard_starts is not None:
            last = shard + 1 == len(self.shard_starts)
            return self.shard_starts[shard], self.rows if last else self.shard_starts[shard + 1]
        return shard * self.shard_size, min((shard + 1) * self.shard_size, self.rows)


def fingerprint_digest(fields: Mapping[str, Any]) -> str:
    """Return the hex SHA-256 of the fields as canonical JSON."""
    return hashlib.sha256(encode_json(dict(fields))).hexdigest()


class Tally:
    """Running totals of records, which are added one by one and not kept."""

    def __init__(self) -> None:
        self.samples = 0
        """Number of samples so far."""
        self._bytes = 0
        self._failures: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._splits: Counter[str] = Counter()

    def add(self, record: ShardRecord) -> None:
        """Add a record."""
        self.samples += record.samples
        self._bytes += record.bytes
        self._failures.update(record.failures)
        self._dropped.update(record.dropped)
        self._splits.update(record.splits)

    @property
    def rows(self) -> int:
        """Number of rows so far: samples, failures and dropped rows."""
        return self.samples + self._failures.total() + self._dropped.total()

    def totals(self) -> Totals:
        """Return the totals of the shards."""
        return Totals(
            samples=self.samples,
            failures=dict(sorted(self._failures.items())),
            bytes=self._bytes,
            dropped=dict(sorted(self._dropped.items())),
        )

    def splits(self) -> dict[str, int]:
        """Return the samples by split."""
        return dict(sorted(self._splits.items()))


def sum_splits(records: Iterable[ShardRecord]) -> dict[str, int]:
    """Return the records' samples by split."""
    return _tally(records).splits()


def sum_records(records: Iterable[ShardRecord]) -> Totals:
    """Return the totals of the records' shards."""
    return _tally(records).totals()


def contradiction(info: DatasetInfo, records: Sequence[ShardRecord]) -> str | None:
    """Return an inconsistency between a complete data set's dataset.json and its records, or None.

    `records` are all records in the order of their shards.
    """
    for record in records:
        if record.rows != info.shard_rows(record.shard):
            planned = list(info.shard_rows(record.shard))
            return f"the record of shard {record.shard} covers the rows {list(record.rows)}, the plan has {planned}"
        if record.fingerprint != info.fingerprint:
            return f"the record of shard {record.shard} has another fingerprint"
        if not record.file.endswith(f".{info.storage}"):
            return f"the record of shard {record.shard} names {record.file} in a data set of .{info.storage} files"
    tally = _tally(records)
    if tally.totals() != info.totals or tally.rows != info.rows:
        return f"totals are {info.totals} of {info.rows} rows, the records add up to {tally.totals()}"
    if tally.splits() != info.splits:
        return f"splits are {info.splits}, the records add up to {tally.splits()}"
    return None


def _tally(records: Iterable[ShardRecord]) -> Tally:
    tally = Tally()
    for record in records:
        tally.add(record)
    return tally


def _are_arrays(fields: Mapping[str, Mapping[str, Any]], feature_dim: int) -> bool:
    """Return whether `fields` are the arrays of the format, with D channels."""
    match fields:
        case {"features": {"dtype": str(feature_dtype)}, "class_ids": {"shape": [_, top_classes]}}:
            pass
        case {"features": {"dtype": str(feature_dtype)}} if "class_ids" not in fields:
            top_classes = 0
        case _:
            return False
    if type(top_classes) is not int or not 0 <= top_classes <= MAX_CHANNELS:
        return False
    expected = describe_fields(
        feature_dim=feature_dim,
        top_classes=top_classes,
        attributes="attribute_ids" in fields,
        objects="object_ids" in fields,
        object_boxes="object_boxes" in fields,
        feature_dtype=feature_dtype,
    )
    return feature_dtype in FIELDS["features"].dtypes and fields == expected


def read_dataset(directory: str | os.PathLike[str]) -> DatasetInfo:
    """Return a data set's dataset.json.

    Raises:
        MissingError: The folder does not exist.
        ShardError: The folder has no dataset.json.
        UnsupportedFormatError: The format number is not supported.
        CorruptShardError: The file is damaged.
    """
    path = Path(directory) / DATASET_FILE
    if not path.is_file():
        raise not_a_dataset(LocalFolder(Path(directory)))
    info, number = parse_document(DatasetInfo, read_bytes(path), path=path, remedy=_REMEDY, since_2=_SINCE_2)
    if not _are_arrays(info.fields, info.feature_dim):
        problem = f"fields are not the arrays of this format, or disagree with feature_dim {info.feature_dim}"
        raise CorruptShardError(problem, path=path, remedy=_REMEDY)
    info = dataclasses.replace(info, fields={name: info.fields[name] for name in FIELDS if name in info.fields})
    if number < (needed := format_of(info.fields)):
        raise CorruptShardError(f"format is {number}, its fields need format {needed}", path=path, remedy=_REMEDY)
    if info.fingerprint != fingerprint_digest(info.fingerprint_fields):
        raise CorruptShardError("fingerprint is not that of fingerprint_fields", path=path, remedy=_REMEDY)
    return info


def read_info(folder: Folder) -> DatasetInfo:
    """Return the dataset.json of a local or remote folder. Raises the errors of `read_dataset`."""
    with folder.local([DATASET_FILE]) as directory:
        if not (directory / DATASET_FILE).is_file():
            raise not_a_dataset(folder)
        return read_dataset(directory)


def encode_dataset(info: DatasetInfo) -> bytes:
    """Return the bytes of dataset.json, which are determined by `info`."""
    document = dataclasses.asdict(info)
    if not info.totals.dropped:
        del document["totals"]["dropped"]
    for name in _SINCE_2:
        if not document[name]:
            del document[name]
    return encode_json({**document, "format": info.format}, indent=2) + b"\n"


def write_dataset(directory: Path, info: DatasetInfo) -> None:
    """Write dataset.json atomically."""
    write_atomic(directory / DATASET_FILE, encode_dataset(info))
