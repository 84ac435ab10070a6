"""A data set that is browsed: its index, its search, and its shards, some of which stay open."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.browse.build import ensure_index
from vilbert.pipeline.browse.index import Index, IndexedSample
from vilbert.pipeline.browse.search import Search
from vilbert.pipeline.errors import RefusedError, ShardError
from vilbert.pipeline.shards.dataset import read_dataset, sum_records
from vilbert.pipeline.shards.location.layout import data_path
from vilbert.pipeline.shards.record import read_records
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.selection.file import SelectionFile
from vilbert.pipeline.shards.storage.store import ShardReader, open_shard
from vilbert.pipeline.shards.storage.tar_store import TarReader
from vilbert.pipeline.urls import is_remote

OPEN_SHARDS = 64
Result = TypeVar("Result")


class OpenedDataset:
    """One data set. Thread-safe."""

    def __init__(self, directory: Path, *, number: int, num_workers: int) -> None:
        """Open a data set and build its index where that is missing; ShardError if there is no data set."""
        if is_remote(str(directory)):
            raise RefusedError(f"{directory}: is a URL; `vilbert browse` reads data sets on a disk")
        self.directory = directory
        self.number = number
        """Its place on the command line, from 0; pages about it lie below /NUMBER/."""
        self.name = directory.resolve().name if directory.name in ("", ".", "..") else directory.name
        """Name shown on pages."""
        self.info = read_dataset(directory)
        self.records = read_records(directory)
        self.totals = sum_records(self.records.values())
        self.index = Index(ensure_index(directory, self.info, self.records, num_workers=num_workers), self.info)
        self.search = Search(self.index, self.info)
        self._readers: OrderedDict[int, ShardReader] = OrderedDict()
        self._lock = threading.Lock()

    def select(self, files: Mapping[str, SelectionFile]) -> None:
        """Show only the samples of the selection of this data set, if there is one; RefusedError if it is damaged.

        files: as `open_selections` returns them.
        """
        file = files.get(self.info.records_sha256 or "")
        if file is not None:
            samples = [self.records[shard].samples for shard in range(self.info.shards)]
            selection = file.load(samples)
            firsts = np.cumsum([0, *samples])[:-1]
            numbers = np.repeat(firsts, np.diff(selection.starts)) + selection.places
            self.index.restrict(numbers.astype(np.int64))

    def close(self) -> None:
        """Close the index and the shards."""
        with self._lock:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()
        self.index.close()

    def read(self, place: IndexedSample) -> Sample:
        """Return a sample; CorruptShardError if it is damaged, ShardError if its shard was replaced since."""

        return self.with_shard(place.shard, lambda reader: _same(reader, place)[place.place])

    def features(self, place: IndexedSample) -> NDArray[Any]:
        """Return the features [R, D] of a sample without its other arrays; the errors are those of `read`."""

        def of(reader: ShardReader) -> NDArray[Any]:
            features: NDArray[Any] = _same(reader, place).read(place.place, ("features",)).arrays["features"]
            return features

        return self.with_shard(place.shard, of)

    def offset(self, place: IndexedSample) -> int | None:
        """Return the byte of a tar at which a sample begins; None in LMDB."""
        return self.with_shard(
            place.shard, lambda reader: reader.offset(place.place) if isinstance(reader, TarReader) else None
        )

    def with_shard(self, shard: int, function: Callable[[ShardReader], Result]) -> Result:
        """Return `function` of an open shard. One thread at a time; what it returns stays valid."""
        with self._lock:
            reader = self._readers.pop(shard, None)
            if reader is None:
                reader = open_shard(data_path(self.directory, shard, self.info.storage), verify=False)
            self._readers[shard] = reader
            while len(self._readers) > OPEN_SHARDS:
                self._readers.popitem(last=False)[1].close()
            return function(reader)


def _same(reader: ShardReader, place: IndexedSample) -> ShardReader:
    """Return the reader; ShardError if it has another sample in this place."""
    if place.place >= len(reader) or reader.keys()[place.place] != place.key:
        raise ShardError(f"{reader.path}: was replaced since the index was built; start `vilbert browse` again")
    return reader
