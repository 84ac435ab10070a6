"""A shard's record: its content and hashes. It is the last file written for a shard."""

from __future__ import annotations

import builtins
import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import field
from pathlib import Path
from typing import Annotated

from annotated_types import Len

from vilbert.documents import Count, Counts, Digest, document
from vilbert.pipeline.errors import CorruptShardError
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.format_number import parse_document, read_bytes
from vilbert.pipeline.shards.keys import is_key
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.location.layout import (
    SHARDS_FOLDER,
    failures_path,
    record_numbers,
    record_path,
    record_paths,
    shard_name,
)
from vilbert.settings import Validator

LEAST_SAMPLE_BYTES = 256
"""Lower bound of a sample's size in either storage: it has two arrays and metadata, each with a header."""
_AT_ONCE = 1000
_REMEDY = "delete it and run the same `vilbert extract` or `vilbert convert` again: it rewrites this shard"


def _check_key(value: str) -> str:
    if not is_key(value):
        raise ValueError("is not a valid sample key")
    return value


Key = Annotated[str, Validator("after", _check_key)]


@document
class ShardRecord:
    """The content of one shard, independent of when, where and by how many workers it was written."""

    shard: Count
    """Index of the shard, from 0."""
    rows: tuple[Count, Count]
    """The manifest rows [start, stop) that it covers."""
    file: str
    """Name of its file of samples, in the same folder."""
    samples: Count
    """Number of samples. Samples, failures and dropped rows add up to the rows."""
    sha256: Digest
    """Hex digest of the file of samples."""
    first_key: Key | None
    """Key of the first sample; None without samples."""
    last_key: Key | None
    """Key of the last sample; None without samples."""
    splits: Counts = field(default_factory=dict)
    """Number of samples by split."""
    failures: Counts = field(default_factory=dict)
    """Number of failed rows by reason, without zero counts."""
    failures_sha256: Digest
    """Hex digest of the shard's file of failures."""
    fingerprint: Digest
    """Hex digest of the settings that produced the shard, see dataset.json."""
    bytes: Count
    """Size of the file of samples."""
    dropped: Annotated[Counts, Len(1)] = field(default_factory=dict)
    """Rows that the settings exclude on purpose, by reason; counted by `vilbert convert`. Format 2."""

    def to_json(self) -> builtins.bytes:
        """Return the bytes of the record's file, in format 1 if no row was dropped."""
        fields = dataclasses.asdict(self)
        if not self.dropped:
            del fields["dropped"]
        return encode_json({"format": 2 if self.dropped else 1, **fields}) + b"\n"

    @classmethod
    def from_json(cls, data: builtins.bytes, *, path: Path) -> ShardRecord:
        """Parse the bytes of a record's file. Raise CorruptShardError, naming `path`, if it is damaged."""
        record, number = parse_document(cls, data, path=path, remedy=_REMEDY, since_2=("dropped",))
        problem = "dropped is missing" if number > 1 and not record.dropped else record._contradiction()
        if problem:
            raise CorruptShardError(problem, path=path, remedy=_REMEDY)
        return record

    def _contradiction(self) -> str | None:
        start, stop = self.rows
        if start > stop:
            return f"rows is {list(self.rows)}"
        failed = sum(self.failures.values())
        if self.file not in (f"{shard_name(self.shard)}.tar", f"{shard_name(self.shard)}.lmdb"):
            return f"shard {self.shard} names the file {self.file}"
        if self.samples * LEAST_SAMPLE_BYTES > self.bytes:
            return f"{self.samples} samples do not fit into {self.bytes} bytes"
        dropped = sum(self.dropped.values())
        if self.samples + failed + dropped != stop - start:
            others = f", {failed} failures and {dropped} dropped rows" if dropped else f" and {failed} failures"
            return f"{self.samples} samples{others} do not add up to its {stop - start} rows"
        if sum(self.splits.values()) != self.samples:
            return f"splits {self.splits} do not add up to {self.samples} samples"
        if (self.samples == 0) != (self.first_key is None) or (self.samples == 0) != (self.last_key is None):
            return f"first_key {self.first_key!r} and last_key {self.last_key!r} do not match {self.samples} samples"
        return None


def read_record(path: Path) -> ShardRecord:
    """Return the record at `path`. Raise CorruptShardError if it is damaged or belongs to another shard."""
    record = ShardRecord.from_json(read_bytes(path), path=path)
    if path.name != f"{shard_name(record.shard)}.json":
        raise CorruptShardError(f"is the record of shard {record.shard}", path=path, remedy=_REMEDY)
    return record


def read_records(directory: Path) -> dict[int, ShardRecord]:
    """Return all records of a data set by shard, in order. Raise CorruptShardError for the first damaged one."""
    return {shard: read_record(path) for shard, path in record_paths(directory).items()}


def read_records_of(folder: Folder) -> dict[int, ShardRecord]:
    """Return all records of a local or remote data set, like `read_records`."""
    shards = record_numbers(name for name, _ in folder.entries(SHARDS_FOLDER))
    with folder.local([record_path(Path(), shard).as_posix() for shard in shards]) as directory:
        return read_records(directory)


def read_each_record(folder: Folder, shards: Sequence[int]) -> Iterator[ShardRecord]:
    """Yield the records of shards, reading several at a time. Raise ShardError if one is missing or damaged."""
    for start in range(0, len(shards), _AT_ONCE):
        some = shards[start : start + _AT_ONCE]
        with folder.local([record_path(Path(), shard).as_posix() for shard in some]) as directory:
            for shard in some:
                yield read_record(record_path(directory, shard))


def records_digest(records: Iterable[ShardRecord]) -> str:
    """Return the hex SHA-256 of the concatenated record files, in the order of their shards."""
    digest = hashlib.sha256()
    for record in sorted(records, key=lambda record: record.shard):
        digest.update(record.to_json())
    return digest.hexdigest()


def is_done(directory: Path, shard: int) -> bool:
    """Return whether a shard is finished: its record exists, is valid, and matches the shard's files.

    The file of samples is compared by size, the file of failures by hash. A damaged record counts as missing.

    Raises:
        UnsupportedFormatError: A newer version wrote the record, so it must not be overwritten.
    """
    if not record_path(directory, shard).exists():
        return False
    try:
        record = read_record(record_path(directory, shard))
    except CorruptShardError:
        return False
    try:
        size = (directory / SHARDS_FOLDER / record.file).stat().st_size
        failures = failures_path(directory, shard).read_bytes()
    except FileNotFoundError:
        return False
    return size == record.bytes and hashlib.sha256(failures).hexdigest() == record.failures_sha256


def count_names(names: Iterable[str]) -> dict[str, int]:
    """Return how often each name occurs, sorted by name."""
    return dict(sorted(Counter(names).items()))
