"""The samples of a run's data sets, by data set, shard and index."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import CorruptShardError, RefusedError
from vilbert.pipeline.shards.columns.layout import BASE
from vilbert.pipeline.shards.sample import SCALES
from vilbert.pipeline.shards.selection.match import open_selections, require_their_data
from vilbert.pipeline.shards.small_features import SmallFeatures
from vilbert.pipeline.shards.storage.store import read_captions
from vilbert.pipeline.shards.storage.verified import VerifiedFiles
from vilbert.pipeline.train.data.example import Example
from vilbert.pipeline.train.data.feature_columns import FeatureColumn
from vilbert.pipeline.train.data.feature_rows import FeaturePart
from vilbert.pipeline.train.data.mixed_features import refuse_mixed_features, refuse_repeated
from vilbert.pipeline.train.data.order import Places
from vilbert.pipeline.train.data.selection import Source, check_sources, read_source
from vilbert.pipeline.train.data.shard_cache import ShardCache
from vilbert.pipeline.train.data.shard_pool import PooledShard, ShardPool
from vilbert.pipeline.train.run.settings import DEFAULT_CACHE_BYTES

_log = logging.getLogger(__name__)
_Item = TypeVar("_Item")
_FEATURES, _CLASSES = ("features",), ("class_ids", "class_probs")


class Corpus:
    """The samples of several data sets.

    A corpus may be pickled or inherited through a fork; each process opens its own shards. Only one thread per process
    may use it, except for `verify_shard`. What `read` returns depends on the files only, not on earlier calls.
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
        """Store the arguments; see `open`."""
        self.sources = tuple(sources)
        """The data sets, in the order given."""
        self.skipped_shards: dict[str, str] = {}
        """The problem of each damaged shard, by its path; of this process."""
        self._on_corrupt = on_corrupt
        self._shards = ShardPool(self.sources, cache=cache, limit=open_shards, verified=verified)

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
        """Read the descriptions and records of data sets. No shard is opened.

        Args:
            directories: Folders that `vilbert extract` wrote, or fsspec URLs of them; or a single one.
            split: Split whose samples are used; None for all.
            on_corrupt: `stop` raises the CorruptShardError of a damaged or missing shard, `skip` returns None for its
                samples.
            cache_dir: Folder for the files of remote data sets.
            cache_bytes: Maximum size of the remote shards in it, in bytes.
            open_shards: Maximum number of open shards; see `keep_open`.
            verified: Compares the SHA-256 of each shard with its record before its first sample is used; None for no
                comparison.
            allow_mixed: Whether to accept data sets whose regions were extracted in different ways.
            weighted: Whether a message about a data set that is given twice recommends --weights.
            features: Features of a region, concatenated in this order: `base` and names of columns.
            class_targets: Source of a region's class probabilities: `base`, or the name of a column with the
                probabilities of all classes.
            selections: Files of `vilbert select`, at most one per data set; each belongs to the data set with its
                content hash.

        Raises:
            RefusedError: A data set is incomplete, the data sets do not match each other, no sample has the split, or a
                selection belongs to another data set.
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
        shards = self._shards
        return Corpus(
            sources,
            on_corrupt=self._on_corrupt,
            cache=shards.cache,
            open_shards=shards.limit,
            verified=shards.verified,
        )

    @property
    def shard_sizes(self) -> list[NDArray[np.int64]]:
        """Usable samples of each shard, int64 [shards] per data set, as `Order` takes them.

        They come from the records, so they do not depend on whether a shard can be read.
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
        """Class probabilities of a region: K, or all C of a column; 0 for a data set without classes."""
        return self.sources[0].target_classes

    @property
    def fingerprints(self) -> list[dict[str, Any]]:
        """What identifies each data set: path, records_sha256, fingerprint and the number of samples used."""
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
        """The distinct detectors and box selections that the regions of the data sets depend on."""
        ways = [source.extractor for source in self.sources if source.extractor]
        return tuple(way for at, way in enumerate(ways) if way not in ways[:at])

    def read(self, places: Places) -> list[Example | None]:
        """Return samples by their places from `Order.at`; None for a sample that cannot be read and is skipped."""
        return self._each(places, self._read_example, verify=True)

    def captions(self, places: Places, *, verify: bool = True) -> list[tuple[str, ...] | None]:
        """Return the captions of samples without reading their arrays; None as in `read`.

        Args:
            places: Places of the samples.
            verify: Whether to compare the SHA-256 of their shards first. False is for reading all captions before the
                first step: each shard is compared later, when its samples are used.
        """

        def take(_: Source, shard: PooledShard, index: int) -> tuple[str, ...]:
            return read_captions(shard.reader, index, shard.reader.metadata(index))

        return self._each(places, take, verify=verify)

    def image_ids(self, places: Places) -> list[str | None]:
        """Return the image ids of samples without reading their arrays; None as in `read`."""
        return self._each(places, lambda _, shard, index: str(shard.reader.metadata(index)["image_id"]))

    def describe(self, places: Places) -> list[str]:
        """Return the file and key of each sample, for messages."""

        def take(_: Source, shard: PooledShard, index: int) -> str:
            return f"{shard.reader.path}, key {shard.reader.keys()[index]}"

        return [text or "a sample that cannot be read" for text in self._each(places, take)]

    def verify_shard(self, dataset: int, shard: int, *, stop: threading.Event | None = None) -> None:
        """Compare a local shard with its record in advance; see `ShardPool.verify`. Thread-safe."""
        self._shards.verify(dataset, shard, stop=stop)

    @property
    def verifies(self) -> bool:
        """Whether local shards are compared with their records."""
        return self._shards.verified is not None and any(source.url is None for source in self.sources)

    def keep_open(self, shards: int) -> None:
        """Set the maximum number of open shards; see `ShardPool.keep_open`."""
        self._shards.keep_open(shards)

    def close(self) -> None:
        """Close all shards. Arrays that were returned stay valid."""
        self._shards.close()

    def _each(
        self, places: Places, take: Callable[[Source, PooledShard, int], _Item], *, verify: bool = False
    ) -> list[_Item | None]:
        """Call `take` for each place, shard by shard. verify: compare the SHA-256 of the shard first."""
        items: list[_Item | None] = [None] * len(places.shard)
        rows = np.lexsort((places.index, places.shard, places.dataset))
        columns = (places.dataset, places.shard, places.index)
        sorted_places = zip(rows.tolist(), *(column[rows].tolist() for column in columns), strict=True)
        for (dataset, number), group in groupby(sorted_places, itemgetter(1, 2)):
            source = self.sources[dataset]
            try:
                shard = self._shards.open(dataset, number)
                if verify:
                    self._shards.require_intact(dataset, number)
            except CorruptShardError as error:
                self._skip(source.path(number), error)
                continue
            for row, _, _, place in group:
                try:
                    items[row] = take(source, shard, shard.index(place))
                except CorruptShardError as error:
                    self._skip(source.path(number), error)
        return items

    def _skip(self, path: Path, error: CorruptShardError) -> None:
        """Log the problem of a shard whose samples are skipped; raise it if the run stops for damaged shards."""
        if self._on_corrupt == "stop":
            raise error
        if str(path) not in self.skipped_shards:
            self.skipped_shards[str(path)] = str(error)
            _log.warning("samples are skipped: %s", error)

    def _read_example(self, source: Source, shard: PooledShard, index: int) -> Example:
        reader = shard.reader
        if source.regions is not None:
            return _read_own_regions(source.regions, shard, index)
        fields = (
            "boxes",
            *(_FEATURES if None in source.features else ()),
            *(_CLASSES if source.stored_classes else ()),
        )
        if source.features == (None,):
            arrays, metadata = reader.read(index, fields, stored=True)
            features, scales = arrays.pop("features"), arrays.pop(SCALES, None)
            parts: tuple[FeaturePart, ...] = (features if scales is None else SmallFeatures(features, scales),)
        else:
            arrays, metadata = reader.read(index, fields)
            parts = _feature_parts(source, shard, index, arrays.pop("features", None), len(arrays["boxes"]))
        if not source.stored_classes:
            arrays["class_ids"], arrays["class_probs"] = _class_targets(source, shard, index, len(arrays["boxes"]))
        channels, class_ids = sum([part.shape[1] for part in parts]), arrays["class_ids"]
        if channels != source.feature_dim or class_ids.shape[1] != source.top_classes:
            problem = f"has {channels} channels and class_ids {list(class_ids.shape)}, dataset.json says "
            problem += f"{source.feature_dim} channels and {source.top_classes} classes"
            raise CorruptShardError(problem, path=reader.path, key=reader.keys()[index])
        if class_ids.size and (largest := np.maximum.reduce(class_ids, axis=None)) >= len(source.class_names):
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


def _read_own_regions(column: FeatureColumn, shard: PooledShard, index: int) -> Example:
    """Return a sample of the data set with the regions of a column in place of its own."""
    reader = shard.reader
    metadata = reader.metadata(index)
    arrays = column.read_regions(shard.columns[column.name], reader.keys()[index])
    return Example(
        image_id=metadata["image_id"],
        captions=read_captions(reader, index, metadata),
        width=metadata["width"],
        height=metadata["height"],
        feature_parts=(arrays.pop("features"),),
        **arrays,
    )


def _class_targets(source: Source, shard: PooledShard, index: int, boxes: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return class ids and probabilities of a column, see `FeatureColumn.read_classes`; of width 0 without one."""
    column = source.class_targets
    if column is None:
        return np.empty((boxes, 0), np.uint16), np.empty((boxes, 0), np.float16)
    return column.read_classes(shard.columns[column.name], shard.reader.keys()[index], boxes)


def _feature_parts(
    source: Source, shard: PooledShard, index: int, base: NDArray[Any] | None, boxes: int
) -> tuple[NDArray[Any], ...]:
    """Return the features that `--features` names, in their order; base: those of the data set."""
    equal = shard.equal_images
    if equal is not None and equal.regions == boxes:
        found = [base if vectors is None else vectors[index] for vectors in equal.parts]
    else:
        key, columns = shard.reader.keys()[index], shard.columns
        found = [base if it is None else it.read(columns[it.name], key, boxes) for it in source.features]
    return tuple([part for part in found if part is not None])


def _known(column: FeatureColumn | None) -> str:
    """Return what identifies features in a run's description."""
    return BASE if column is None else f"{column.name} {column.records_sha256}"
