"""A data set as a `Source`: tar or LMDB shards, in a folder or behind a URL."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import CorruptShardError, ShardError
from vilbert.pipeline.rebuild.source import Scanned, SourceDescription
from vilbert.pipeline.shards.dataset import DatasetInfo, read_info
from vilbert.pipeline.shards.failures import FailureRow, read_failures
from vilbert.pipeline.shards.location.folder import Place, open_folder
from vilbert.pipeline.shards.location.layout import data_path, failures_path, shard_files
from vilbert.pipeline.shards.record import read_each_record
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.selection.file import SelectionFile
from vilbert.pipeline.shards.storage.closing import Closing
from vilbert.pipeline.shards.storage.raw import RawRun, RawSample
from vilbert.pipeline.shards.storage.store import ShardReader, open_shard
from vilbert.pipeline.shards.storage.tar_store import TarReader
from vilbert.pipeline.shards.storage.verified import compare_once, read_compared

OPEN_SHARDS, OPEN_REMOTE_SHARDS = 256, 4
"""Number of shards that stay open: each has an open file and, if remote, a copy on the local disk."""

MAPPED = 16
"""Shorter runs are read from the mapped file, which is compared before, because shuffled rows come one by one."""


@dataclass
class _OpenShard:
    path: Path
    reader: ShardReader
    failures: list[FailureRow]
    stack: ExitStack
    compared: bool
    """Whether its SHA-256 was compared with its record, or does not have to be."""


class DatasetSource(Closing):
    """The rows of a data set: for each shard the samples, then the failed rows. Dropped rows are not included."""

    def __init__(self, place: Place, *, shards: int | None = None, verify: bool = True) -> None:
        """Open a data set.

        Args:
            place: Its folder or URL.
            shards: Number of leading shards to read, which are finished even if the data set is incomplete.
            verify: Whether to compare the SHA-256 of each shard with its record before its first sample is used.

        Raises:
            ShardError: It does not exist, is not complete, or its records differ from those it was completed with.
        """
        self.folder = open_folder(place)
        """Location of the data set."""
        self.info: DatasetInfo = read_info(self.folder)
        self._verify = verify
        if not self.info.complete and shards is None:
            raise ShardError(f"{self.folder.name}: is not complete; run the command that writes it again")
        digest, ends, samples, contents, failures, sizes = hashlib.sha256(), [0], [], [], [], []
        for record in read_each_record(self.folder, range(self.info.shards if shards is None else shards)):
            digest.update(record.to_json())
            ends.append(ends[-1] + record.samples + sum(record.failures.values()))
            samples.append(record.samples)
            sizes.append(record.bytes)
            contents.append(bytes.fromhex(record.sha256))
            failures.append(bytes.fromhex(record.failures_sha256))
        self.content = digest.hexdigest()
        """Hash of the records, which identifies the content."""
        if shards is None and self.content != self.info.records_sha256:
            raise ShardError(
                f"{self.folder.name}: its records are not those that dataset.json was completed with; run `vilbert "
                f"verify {self.folder.name} --deep`"
            )
        self._starts, self._samples, self._sizes = tuple(ends), samples, sizes
        self._contents, self._failures = contents, failures  # SHA-256, of the records as `content` names them
        self._open: OrderedDict[int, _OpenShard] = OrderedDict()

    @property
    def description(self) -> SourceDescription:
        """Properties that all samples share."""
        info = self.info
        return SourceDescription(
            format="vilbert",
            fields=info.fields,
            class_names=info.class_names,
            attribute_names=info.attribute_names,
            fingerprint={"fingerprint_fields": info.fingerprint_fields},
        )

    @property
    def rows(self) -> int:
        """Number of samples and failed rows."""
        return self._starts[-1]

    def selected_rows(self, file: SelectionFile) -> NDArray[np.bool_]:
        """Return which rows a selection of this data set contains, bool [rows]; RefusedError if it is damaged."""
        selection = file.load(self._samples)
        selected = np.zeros(self.rows, bool)
        shards = np.repeat(np.arange(len(self._samples)), np.diff(selection.starts))
        selected[np.array(self._starts)[shards] + selection.places] = True
        return selected

    def shards_of(self, rows: NDArray[np.int64]) -> set[int]:
        """Return the shards of the given rows."""
        return set(np.unique(np.searchsorted(self._starts, rows, side="right") - 1).tolist())

    def shard_bytes(self, shard: int) -> int:
        """Return the size of a shard's file of samples."""
        return self._sizes[shard]

    def shard_file(self, shard: int) -> Path:
        """Return a local path of a shard's file of samples, which is valid while the shard is open."""
        return self._shard(shard, compare=False).path

    def read(self, start: int, stop: int) -> Iterator[Sample | FailureRow]:
        """Yield the rows [start, stop)."""
        for shard, first, last in self.spans(start, stop):
            opened = self._shard(shard)
            samples = len(opened.reader)
            for index in range(first, last):
                yield opened.reader[index] if index < samples else opened.failures[index - samples]

    def read_raw(self, start: int, stop: int) -> Iterator[RawSample | FailureRow]:
        """Yield the rows [start, stop), samples as stored bytes."""
        for shard, first, last in self.spans(start, stop):
            opened = self._shard(shard)
            samples = len(opened.reader)
            for index in range(first, last):
                yield opened.reader.raw(index) if index < samples else opened.failures[index - samples]

    def read_runs(self, start: int, stop: int) -> Iterator[RawRun | FailureRow]:
        """Yield the rows [start, stop) of a data set in tar shards; consecutive samples as runs of stored bytes."""
        for shard, first, last in self.spans(start, stop):
            opened = self._shard(shard, compare=last - first < MAPPED)
            reader = opened.reader
            assert isinstance(reader, TarReader)
            if (end := min(last, len(reader))) > first:
                splits = tuple(reader.metadata(index).get("split", "") for index in range(first, end))
                if opened.compared:
                    chunks = (chunk for chunk in [reader.chunk(first, end)])
                else:
                    chunks = read_compared(opened.path, *reader.span(first, end), self._contents[shard].hex())
                yield RawRun(reader.keys()[first:end], splits, chunks)
            yield from opened.failures[max(0, first - len(reader)) : max(0, last - len(reader))]

    def scan(self, start: int, stop: int, *, metadata: bool) -> Iterator[Scanned | FailureRow]:
        """Yield the rows [start, stop) without arrays."""
        for shard, first, last in self.spans(start, stop):
            opened = self._shard(shard)
            keys = opened.reader.keys()
            for index in range(first, min(last, len(keys))):
                yield Scanned(keys[index], opened.reader.metadata(index) if metadata else None)
            yield from opened.failures[max(0, first - len(keys)) : max(0, last - len(keys))]

    def close(self) -> None:
        """Release files."""
        while self._open:
            self._open.popitem()[1].stack.close()

    def spans(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Yield (shard, first, last) of the parts of the shards that contain the rows [start, stop)."""
        shard = bisect_right(self._starts, start) - 1
        while start < stop:
            end = min(stop, self._starts[shard + 1])
            if start < end:
                yield shard, start - self._starts[shard], end - self._starts[shard]
            start, shard = end, shard + 1

    def _shard(self, shard: int, *, compare: bool = True) -> _OpenShard:
        """Return an open shard, compared with its record unless the caller compares it."""
        if (opened := self._open.get(shard)) is not None:
            self._open.move_to_end(shard)
            if compare and not opened.compared:
                compare_once(opened.path, self._contents[shard].hex())
                opened.compared = True
            return opened
        while len(self._open) >= (OPEN_REMOTE_SHARDS if self.folder.remote else OPEN_SHARDS):
            self._open.popitem(last=False)[1].stack.close()
        with ExitStack() as stack:
            storage = self.info.storage
            directory = stack.enter_context(self.folder.local(shard_files(shard, storage)))
            failures = read_failures(listed := failures_path(directory, shard))
            if hashlib.sha256(listed.read_bytes()).digest() != self._failures[shard]:
                raise CorruptShardError("its sha256 differs from its record", path=listed)
            path = data_path(directory, shard, storage)
            reader = stack.enter_context(open_shard(path, verify=False))
            if self._verify and compare:
                compare_once(path, self._contents[shard].hex())
            if len(reader) != self._samples[shard]:
                problem = f"holds {len(reader)} samples, its record says {self._samples[shard]}"
                raise CorruptShardError(problem, path=path)
            compared = compare or not self._verify
            self._open[shard] = _OpenShard(path, reader, failures, stack.pop_all(), compared)
        return self._open[shard]


def is_dataset(place: Place) -> bool:
    """Return whether a location contains a data set."""
    return not (isinstance(place, Path) and not place.is_dir()) and any(
        name == "dataset.json" for name, _ in open_folder(place).entries("")
    )
