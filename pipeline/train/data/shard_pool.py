"""The open shards of a run's data sets: opened when they are needed, the least recently used closed first."""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import CorruptShardError
from vilbert.pipeline.shards.columns.shard import ColumnReader
from vilbert.pipeline.shards.storage.store import ShardReader, open_shard
from vilbert.pipeline.shards.storage.verified import VerifiedFiles
from vilbert.pipeline.train.data.feature_columns import EqualImages, FeatureColumn, equal_images
from vilbert.pipeline.train.data.selection import Source, usable_indices
from vilbert.pipeline.train.data.shard_cache import CacheFullError, OpenedShard, ShardCache

CORPORA = 2
"""Pools of a process: one of training samples, one of held-out samples."""

_Opened = TypeVar("_Opened", bound=OpenedShard)
_Key = tuple[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class PooledShard:
    """An open shard with the shards of the columns that are used."""

    reader: ShardReader
    columns: dict[str, ColumnReader]
    """By the column's name."""
    equal_images: EqualImages | None
    """The features of `--features` as arrays over all samples, if all images have the same number of regions."""
    indices: NDArray[np.uint32] | None
    """Index in the shard of each sample that is used; None if all are used."""

    def index(self, place: int) -> int:
        """Return the index in the shard of a sample that is used."""
        return place if self.indices is None else int(self.indices[place])


class ShardPool:
    """Opens the shards of data sets and keeps a bounded number of them open.

    A pool may be pickled or inherited through a fork; each process opens its own shards. Only one thread per process
    may use it, except for `verify`.
    """

    def __init__(
        self, sources: Sequence[Source], *, cache: ShardCache | None, limit: int, verified: VerifiedFiles | None
    ) -> None:
        """Store the arguments; no shard is opened.

        Args:
            sources: The data sets.
            cache: Stores the shards of remote data sets.
            limit: Maximum number of open shards.
            verified: Compares shards with the SHA-256 of their records; None for no comparison.
        """
        if limit < 1:
            raise ValueError(f"open_shards {limit}: give at least 1")
        self.limit = limit
        self.cache = cache
        self.verified = verified
        self._sources = tuple(sources)
        self._open_shards: OrderedDict[_Key, PooledShard] = OrderedDict()
        self._indices: dict[_Key, NDArray[np.uint32] | None] = {}
        self._intact: set[_Key] = set()
        self._corrupt: dict[_Key, CorruptShardError] = {}
        self._process = os.getpid()

    def keep_open(self, shards: int) -> None:
        """Set the maximum number of open shards, within the limit on open files.

        With fewer than a window of the order uses, each of them is opened many times.
        """
        files = max(len(source.columns) for source in self._sources) + 1
        self.limit = max(1, min(shards, most_open_shards() // files))

    def open(self, dataset: int, shard: int) -> PooledShard:
        """Return an open shard.

        Raises:
            CorruptShardError: The shard is damaged or missing. Later calls raise the same error.
        """
        if self._process != os.getpid():
            # Inherited through a fork: a remote shard may be deleted, and LMDB must not be used across a fork.
            self.close()
            self._process = os.getpid()
        key = dataset, shard
        if key in self._open_shards:
            self._open_shards.move_to_end(key)
            return self._open_shards[key]
        self._raise_again(key)
        while len(self._open_shards) >= self.limit:
            self._close_oldest()
        try:
            self._open_shards[key] = self._open(key)
        except CorruptShardError as error:
            self._corrupt[key] = error
            raise
        return self._open_shards[key]

    def require_intact(self, dataset: int, shard: int) -> None:
        """Compare the files of a shard with the SHA-256 of their records, once.

        Raises:
            CorruptShardError: They differ. Later calls raise the same error.
        """
        key = dataset, shard
        if self.verified is None or key in self._intact:
            return
        self._raise_again(key)
        source = self._sources[dataset]
        path = source.path(shard)
        try:
            self.verified.require(path, source.shards[shard].sha256, cached=source.url is not None)
            for column in source.columns:
                path = column.path(shard)
                self.verified.require(path, column.sha256[shard], cached=source.url is not None)
        except CorruptShardError as error:
            if source.url is not None:
                path.unlink(missing_ok=True)
                error = CorruptShardError(
                    error.problem, path=path, remedy="it was deleted: run the same command again to download it again"
                )
            self._corrupt[key] = error
            raise error from None
        self._intact.add(key)

    def verify(self, dataset: int, shard: int, *, stop: threading.Event | None = None) -> None:
        """Compare a local shard with its record in advance, so that `require_intact` need not. Thread-safe.

        A shard that is being compared already is left out, and an error is raised by `require_intact` only.
        """
        source = self._sources[dataset]
        if self.verified is not None and source.url is None:
            with contextlib.suppress(CorruptShardError):
                path, digest = source.path(shard), source.shards[shard].sha256
                self.verified.require(path, digest, wait=False, stop=stop)

    def close(self) -> None:
        """Close all shards. Arrays that were returned stay valid."""
        while self._open_shards:
            self._close_oldest()

    def _raise_again(self, key: _Key) -> None:
        if key in self._corrupt:
            raise self._corrupt[key].with_traceback(None)  # the traceback would grow with each raise

    def _open(self, key: _Key) -> PooledShard:
        dataset, shard = key
        source = self._sources[dataset]
        path, facts = source.path(shard), source.shards[shard]
        opener = partial(open_shard, verify=False)  # `require_intact` compares it when its samples are used
        if source.url is None or self.cache is None:
            _check_size(path, facts.bytes)
            reader = opener(path)
        else:
            reader = self._open_remote(self.cache, source.url, path, facts.bytes, facts.sha256, opener)
        columns: dict[str, ColumnReader] = {}
        try:
            if key not in self._indices:
                places = None if source.selection is None else source.selection.of_shard(shard)
                self._indices[key] = usable_indices(reader, facts, source.split, source.part, places)
            for column in source.columns:
                columns[column.name] = self._open_column(column, shard)
        except BaseException:
            self._close(source, [*columns.values(), reader])
            raise
        equal = equal_images(source.features, columns, reader.keys())
        return PooledShard(reader=reader, columns=columns, equal_images=equal, indices=self._indices[key])

    def _open_column(self, column: FeatureColumn, shard: int) -> ColumnReader:
        if column.url is None or self.cache is None:
            return column.open_local(shard)
        path, size, sha256 = column.path(shard), column.bytes[shard], column.sha256[shard]
        return self._open_remote(self.cache, column.url, path, size, sha256, column.open)

    def _open_remote(
        self, cache: ShardCache, url: str, path: Path, size: int, sha256: str, opener: Callable[[Path], _Opened]
    ) -> _Opened:
        """Open a shard of the cache. If the cache is full of shards that are open here, close the oldest first."""
        fetched = not path.exists()
        while True:
            try:
                reader = cache.open(url, path, size=size, sha256=sha256, opener=opener)
                if fetched and self.verified is not None:  # a download is compared while it is written
                    self.verified.note(path, sha256, cached=True)
                return reader
            except CacheFullError:
                if not self._open_shards:
                    raise
                self._close_oldest()

    def _close_oldest(self) -> None:
        (dataset, _), shard = self._open_shards.popitem(last=False)
        self._close(self._sources[dataset], [*shard.columns.values(), shard.reader])

    def _close(self, source: Source, shards: Sequence[OpenedShard]) -> None:
        for shard in shards:
            if source.url is not None and self.cache is not None:
                self.cache.close(shard)
            else:
                shard.close()

    def __getstate__(self) -> dict[str, Any]:
        """Leave out open shards: the other process opens its own."""
        return {**self.__dict__, "_open_shards": OrderedDict()}


def most_open_shards() -> int:
    """Return how many single-file shards a pool may open so that half of the process's open files stay free."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit // 2 // CORPORA


def _check_size(path: Path, expected: int) -> None:
    """Raise CorruptShardError if a shard's file is missing or its size differs from its record."""
    size = None
    with contextlib.suppress(FileNotFoundError):
        size = path.stat().st_size
    if size is None:
        raise CorruptShardError("is missing, though its record is there", path=path)
    if size != expected:
        raise CorruptShardError(f"has {size} bytes, its record says {expected}", path=path)
