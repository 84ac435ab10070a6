"""The data sets that a run trains on: samples by their place, from shards that are opened when they are needed."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import CorruptShardError, RefusedError
from vilbert.pipeline.shards.columns.layout import BASE
from vilbert.pipeline.shards.columns.shard import ColumnShard
from vilbert.pipeline.shards.sample import SCALES
from vilbert.pipeline.shards.selection.match import open_selections, require_their_data
from vilbert.pipeline.shards.small_features import SmallFeatures
from vilbert.pipeline.shards.storage.store import ShardReader, open_shard, read_captions
from vilbert.pipeline.shards.storage.verified import VerifiedFiles
from vilbert.pipeline.train.data.feature_columns import FeatureColumn, check_class_targets
from vilbert.pipeline.train.data.feature_rows import FeaturePart, copy_features, joined_features
from vilbert.pipeline.train.data.mixed_features import refuse_mixed_features, refuse_repeated
from vilbert.pipeline.train.data.order import Places
from vilbert.pipeline.train.data.selection import Source, check_sources, read_source, usable_indices
from vilbert.pipeline.train.data.shard_cache import CacheFullError, OpenedShard, ShardCache
from vilbert.pipeline.train.run.settings import DEFAULT_CACHE_BYTES

_log = logging.getLogger(__name__)
_Item = TypeVar("_Item")
_Opened = TypeVar("_Opened", bound=OpenedShard)
CORPORA = 2  # of a process: what trains and what is held out
_FIELDS = ("boxes", "features", "class_ids", "class_probs")
_WITHOUT_CLASSES = _FIELDS[:2]


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Example:
    """What training reads of a sample. Arrays are read-only; those of a tar shard are views of the mapped file."""

    image_id: str
    """As in the manifest."""
    captions: tuple[str, ...]
    """As in the manifest; empty where it has none."""
    width: int
    """Pixels of the image."""
    height: int
    """Pixels of the image."""
    boxes: NDArray[np.float32]
    """[N, 4] xyxy in pixels."""
    feature_parts: tuple[FeaturePart, ...]
    """[N, M] for each name of `--features`; `features` has them side by side."""
    class_ids: NDArray[np.uint16]
    """[N, K] most probable classes, most probable first; 0 is the background. K is 0 for data sets without them, and
    where the class targets are those of a column."""
    class_probs: NDArray[np.float16] | NDArray[np.float32]
    """[N, K] their probabilities; [N, C] those of all classes by class id, where they come from a column."""

    @property
    def features(self) -> NDArray[np.float16] | NDArray[np.float32]:
        """[N, D]. A copy where several features are concatenated, or they have one byte a value."""
        return joined_features(self.feature_parts)

    def copy_features(self, target: NDArray[Any]) -> None:
        """Write the features of the first regions into an array [at most N, D], each part once."""
        copy_features(self.feature_parts, target)


class Corpus:
    """Samples of several data sets by their place.

    It may be sent to another process or taken through a fork; each process opens shards for itself. One thread a
    process may use it. What `read` returns depends on the files alone, not on what was read before.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        on_corrupt: Literal["stop", "skip"],
        cache: ShardCache | None,
        open_shards: int,
        verified: VerifiedFiles | None = None,
    ) -> None:
        """Take data sets as `open` reads them."""
        if open_shards < 1:
            raise ValueError(f"open_shards {open_shards}: give at least 1")
        self.sources = tuple(sources)
        """The data sets, in the order given."""
        self.skipped_shards: dict[str, str] = {}
        """What was wrong with a shard, by its path; of this process."""
        self._on_corrupt = on_corrupt
        self._cache = cache
        self._open_shards = open_shards
        self._verified = verified
        self._whole: set[tuple[int, int]] = set()
        self._process = os.getpid()
        self._readers: OrderedDict[tuple[int, int], ShardReader] = OrderedDict()
        self._columns: dict[ShardReader, dict[str, ColumnShard]] = {}
        self._indices: dict[tuple[int, int], NDArray[np.uint32] | None] = {}
        self._broken: dict[tuple[int, int], CorruptShardError] = {}

    @classmethod
    def open(
        cls,
        directories: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        split: str | None,
        on_corrupt: Literal["stop", "skip"] = "stop",
        cache_dir: Path | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        open_shards: int = 64,
        verified: VerifiedFiles | None = None,
        allow_mixed: bool = False,
        weighted: bool = False,
        features: Sequence[str] = (BASE,),
        class_targets: str = BASE,
        selections: Sequence[Path] = (),
    ) -> Corpus:
        """Read what the data sets are; no shard is opened.

        Args:
            directories: folders that `vilbert extract` wrote, or fsspec URLs of them; one may be given alone.
            split: the split whose samples are used, None for all.
            on_corrupt: stop raises the CorruptShardError of a damaged or missing shard, skip gives None for samples.
            cache_dir: where files of remote data sets go.
            cache_bytes: bytes of remote shards kept there.
            open_shards: shards open at a time; see `keep_open`.
            verified: compares the SHA-256 of each shard with its record before its first sample is used; None for no
                comparison.
            allow_mixed: take data sets whose regions were extracted in different ways.
            weighted: name --weights where a data set is given twice.
            features: what a region's features are, one behind the other: `base`, and names of columns.
            class_targets: where the class probabilities of regions come from: `base`, or the name of a column that has
                those of all classes.
            selections: files of `vilbert select`, at most one for each data set, which find theirs by its content.

        Raises:
            RefusedError: data sets that are not complete or do not go together, no sample of the split, or a selection
                of another data set.
        """
        if isinstance(directories, str | os.PathLike):
            directories = [directories]
        names = [os.fspath(name) for name in directories]
        if not names:
            raise RefusedError("no data set: give one or more folders that `vilbert extract --output` wrote")
        cache = None if cache_dir is None else ShardCache(folder=cache_dir, limit=cache_bytes)
        files = open_selections(selections)
        sources = [
            read_source(
                name, split=split, cache=cache, features=features, class_targets=class_targets, selections=files
            )
            for name in names
        ]
        require_their_data(files, {source.records_sha256: source.name for source in sources})
        check_sources(sources)
        refuse_repeated(sources, weighted=weighted)
        if not allow_mixed:
            refuse_mixed_features(sources)
        return cls(sources, on_corrupt=on_corrupt, cache=cache, open_shards=open_shards, verified=verified)

    def with_sources(self, sources: Sequence[Source]) -> Corpus:
        """Return a corpus of other parts of the same data sets, read in the same way."""
        return Corpus(
            sources,
            on_corrupt=self._on_corrupt,
            cache=self._cache,
            open_shards=self._open_shards,
            verified=self._verified,
        )

    @property
    def shard_sizes(self) -> list[NDArray[np.int64]]:
        """Usable samples of each shard, int64 [shards] for each data set, as `Order` takes them.

        They are the records' numbers, so they are the same whether or not a shard can be read.
        """
        return [np.array([shard.usable for shard in source.shards], dtype=np.int64) for source in self.sources]

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class id; 0 is the background."""
        return self.sources[0].class_names

    @property
    def feature_dim(self) -> int:
        """D, channels of a feature."""
        return self.sources[0].feature_dim

    @property
    def top_classes(self) -> int:
        """K, most probable classes of a region."""
        return self.sources[0].top_classes

    @property
    def target_classes(self) -> int:
        """Class probabilities that are read of a region: K, or all C of a column; 0 where there are none."""
        return self.sources[0].target_classes

    @property
    def fingerprints(self) -> list[dict[str, Any]]:
        """By what each data set is known: path, records_sha256, fingerprint and the number of samples used."""
        return [
            {
                "path": source.name,
                "records_sha256": source.records_sha256,
                "fingerprint": source.fingerprint,
                "samples": sum(shard.usable for shard in source.shards),
                **({} if source.features == (None,) else {"features": [_known(it) for it in source.features]}),
                **({} if source.class_targets is None else {"class_targets": _known(source.class_targets)}),
                **({} if source.selection is None else {"selection": source.selection.digest}),
            }
            for source in self.sources
        ]

    @property
    def extractors(self) -> tuple[dict[str, Any], ...]:
        """What the regions of the data sets depend on, each way of it once: detector and selection of boxes."""
        ways = [source.extractor for source in self.sources if source.extractor]
        return tuple(way for at, way in enumerate(ways) if way not in ways[:at])

    def read(self, places: Places) -> list[Example | None]:
        """Return the samples of places as `Order.at` gives them; None for one that is skipped as it cannot be read."""
        return self._each(places, self._read_example, verify=True)

    def captions(self, places: Places, *, verify: bool = True) -> list[tuple[str, ...] | None]:
        """Return the captions of places without touching their arrays; None as with `read`.

        verify: False does not compare the SHA-256 of their shards: for a look at all of them before the first step,
        each of which is compared when its samples are used.
        """
        return self._each(
            places,
            lambda source, reader, index: read_captions(reader, index, reader.metadata(index)),
            verify=verify,
        )

    def verify_shard(self, dataset: int, shard: int, *, stop: threading.Event | None = None) -> None:
        """Compare a shard of this machine with its record now, so that reading it need not; any thread may call it.

        It leaves a shard to whoever is comparing it already, and what is wrong with it to whoever reads it.
        """
        source = self.sources[dataset]
        if self._verified is not None and source.url is None:
            with contextlib.suppress(CorruptShardError):
                path, digest = source.path(shard), source.shards[shard].sha256
                self._verified.require(path, digest, wait=False, stop=stop)

    @property
    def verifies(self) -> bool:
        """Whether shards of this machine are compared with their records."""
        return self._verified is not None and any(source.url is None for source in self.sources)

    def keep_open(self, shards: int) -> None:
        """Keep so many shards open at a time, or as many as the limit on open files allows.

        Fewer than a window of the order touches, and each of them is opened again and again.
        """
        files = max(len(source.columns) for source in self.sources) + 1
        self._open_shards = max(1, min(shards, most_open_shards() // files))

    def image_ids(self, places: Places) -> list[str | None]:
        """Return the image ids of places without touching their arrays; None as with `read`."""
        return self._each(places, lambda source, reader, index: str(reader.metadata(index)["image_id"]))

    def describe(self, places: Places) -> list[str]:
        """Return file and key of the sample at each of some places, for messages."""

        def name(source: Source, reader: ShardReader, index: int) -> str:
            return f"{reader.path}, key {reader.keys()[index]}"

        return [text or "a sample that cannot be read" for text in self._each(places, name)]

    def close(self) -> None:
        """Close all shards; arrays already handed out stay valid."""
        while self._readers:
            self._close_oldest()

    def _each(
        self, places: Places, take: Callable[[Source, ShardReader, int], _Item], *, verify: bool = False
    ) -> list[_Item | None]:
        """Call `take` for each place, shard by shard; verify: only after the SHA-256 of the shard was compared."""
        items: list[_Item | None] = [None] * len(places.shard)
        for row in np.lexsort((places.index, places.shard, places.dataset)).tolist():
            dataset, shard, index = int(places.dataset[row]), int(places.shard[row]), int(places.index[row])
            try:
                reader = self._reader(dataset, shard)
                if verify:
                    self._require_whole(dataset, shard)
                indices = self._indices[dataset, shard]
                items[row] = take(self.sources[dataset], reader, index if indices is None else int(indices[index]))
            except CorruptShardError as error:
                if self._on_corrupt == "stop":
                    raise
                self._note(self.sources[dataset].path(shard), error)
        return items

    def _note(self, path: Path, error: CorruptShardError) -> None:
        if str(path) not in self.skipped_shards:
            self.skipped_shards[str(path)] = str(error)
            _log.warning("samples are skipped: %s", error)

    def _reader(self, dataset: int, shard: int) -> ShardReader:
        """Return the shard, opened if it is not; CorruptShardError for one that cannot be used, now and later."""
        if self._process != os.getpid():
            self.close()  # a fork took them along; a remote one may be deleted, and LMDB must open it again by its name
            self._process = os.getpid()
        name = dataset, shard
        if name in self._readers:
            self._readers.move_to_end(name)
            return self._readers[name]
        if name in self._broken:
            raise self._broken[name].with_traceback(None)  # else it would grow with each raise
        while len(self._readers) >= self._open_shards:
            self._close_oldest()
        try:
            self._readers[name] = self._open(dataset, shard)
        except CorruptShardError as error:
            self._broken[name] = error
            raise
        return self._readers[name]

    def _require_whole(self, dataset: int, shard: int) -> None:
        """Raise CorruptShardError where the file of a shard has not the SHA-256 of its record, now and later."""
        name = dataset, shard
        if self._verified is None or name in self._whole:
            return
        if name in self._broken:
            raise self._broken[name].with_traceback(None)
        source = self.sources[dataset]
        path = source.path(shard)
        try:
            self._verified.require(path, source.shards[shard].sha256, cached=source.url is not None)
            for column in source.columns:
                path = column.path(shard)
                self._verified.require(path, column.sha256[shard], cached=source.url is not None)
        except CorruptShardError as error:
            if source.url is not None:
                path.unlink(missing_ok=True)
                error = CorruptShardError(
                    error.problem, path=path, remedy="it was deleted: run the same command again to download it again"
                )
            self._broken[name] = error
            raise error from None
        self._whole.add(name)

    def _open(self, dataset: int, shard: int) -> ShardReader:
        source, facts = self.sources[dataset], self.sources[dataset].shards[shard]
        path = source.path(shard)
        if source.url is None or self._cache is None:
            _check_size(path, facts.bytes)
            reader = open_shard(path, verify=False)  # `_require_whole` compares it, where its samples are used
        else:
            reader = self._open_remote(
                self._cache, source.url, path, facts.bytes, facts.sha256, partial(open_shard, verify=False)
            )
        self._columns[reader] = {}
        try:
            if (dataset, shard) not in self._indices:
                places = None if source.selection is None else source.selection.of_shard(shard)
                self._indices[dataset, shard] = usable_indices(reader, facts, source.split, source.part, places)
            for column in source.columns:
                self._columns[reader][column.name] = self._open_column(column, shard)
        except BaseException:
            self._release(source, reader)
            raise
        return reader

    def _open_column(self, column: FeatureColumn, shard: int) -> ColumnShard:
        if column.url is None or self._cache is None:
            return column.open_local(shard)
        path, size, sha256 = column.path(shard), column.bytes[shard], column.sha256[shard]
        return self._open_remote(self._cache, column.url, path, size, sha256, column.open)

    def _open_remote(
        self, cache: ShardCache, url: str, path: Path, size: int, sha256: str, opener: Callable[[Path], _Opened]
    ) -> _Opened:
        """Open a shard of the cache; where the cache is full of shards that are open here, close the oldest first."""
        fetched = not path.exists()
        while True:
            try:
                reader = cache.open(url, path, size=size, sha256=sha256, opener=opener)
                if fetched and self._verified is not None:  # a download is compared as it arrives
                    self._verified.note(path, sha256, cached=True)
                return reader
            except CacheFullError:
                if not self._readers:
                    raise
                self._close_oldest()

    def _close_oldest(self) -> None:
        (dataset, _), reader = self._readers.popitem(last=False)
        self._release(self.sources[dataset], reader)

    def _release(self, source: Source, reader: ShardReader) -> None:
        opened: list[OpenedShard] = [*self._columns.pop(reader, {}).values(), reader]
        for shard in opened:
            if source.url is not None and self._cache is not None:
                self._cache.close(shard)
            else:
                shard.close()

    def _read_example(self, source: Source, reader: ShardReader, index: int) -> Example:
        fields = _FIELDS if source.top_classes else _WITHOUT_CLASSES
        if source.features == (None,):
            arrays, metadata = reader.read(index, fields, stored=True)
            features, scales = arrays.pop("features"), arrays.pop(SCALES, None)
            parts: tuple[FeaturePart, ...] = (features if scales is None else SmallFeatures(features, scales),)
        else:
            wanted = [name for name in fields if name != "features" or None in source.features]
            arrays, metadata = reader.read(index, wanted)
            parts = self._feature_parts(source, reader, index, arrays)
            arrays.pop("features", None)
        if not source.top_classes:
            arrays["class_ids"] = np.empty((len(arrays["boxes"]), 0), np.uint16)
            arrays["class_probs"] = self._class_targets(source, reader, index, len(arrays["boxes"]))
        channels, class_ids = sum(part.shape[1] for part in parts), arrays["class_ids"]
        if channels != source.feature_dim or class_ids.shape[1] != source.top_classes:
            problem = f"has {channels} channels and class_ids {list(class_ids.shape)}, dataset.json says "
            problem += f"{source.feature_dim} channels and {source.top_classes} classes"
            raise CorruptShardError(problem, path=reader.path, key=reader.keys()[index])
        if class_ids.size and (largest := int(class_ids.max())) >= len(source.class_names):
            problem = f"has class id {largest}, dataset.json names {len(source.class_names)} classes"
            raise CorruptShardError(problem, path=reader.path, key=reader.keys()[index])
        return Example(
            image_id=metadata["image_id"],
            captions=read_captions(reader, index, metadata),
            width=metadata["width"],
            height=metadata["height"],
            feature_parts=parts,
            **arrays,
        )

    def _class_targets(self, source: Source, reader: ShardReader, index: int, boxes: int) -> NDArray[Any]:
        """Return the class probabilities of a column [boxes, C], or [boxes, 0] where there are none."""
        column = source.class_targets
        if column is None:
            return np.empty((boxes, 0), np.float16)
        key, opened = reader.keys()[index], self._columns[reader][column.name]
        probs = column.read(opened, key, boxes)
        check_class_targets(probs, opened.path, key)
        return probs

    def _feature_parts(
        self, source: Source, reader: ShardReader, index: int, arrays: dict[str, NDArray[Any]]
    ) -> tuple[NDArray[Any], ...]:
        """Return the features that `--features` names, in their order."""
        key, boxes, opened = reader.keys()[index], len(arrays["boxes"]), self._columns[reader]
        return tuple(
            arrays["features"] if column is None else column.read(opened[column.name], key, boxes)
            for column in source.features
        )

    def __getstate__(self) -> dict[str, Any]:
        """Leave open shards behind: the process that takes over opens its own."""
        return {**self.__dict__, "_readers": OrderedDict(), "_columns": {}}


def _known(column: FeatureColumn | None) -> str:
    """Return by what a run knows features that it was trained on."""
    return BASE if column is None else f"{column.name} {column.records_sha256}"


def most_open_shards() -> int:
    """Return how many shards, a file each, leave the process half of the files that it may open for all else."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit // 2 // CORPORA


def _check_size(path: Path, expected: int) -> None:
    """Raise CorruptShardError where a shard's file is missing or has another size than its record says."""
    size = None
    with contextlib.suppress(FileNotFoundError):
        size = path.stat().st_size
    if size is None:
        raise CorruptShardError("is missing, though its record is there", path=path)
    if size != expected:
        raise CorruptShardError(f"has {size} bytes, its record says {expected}", path=path)
