"""Columns that training reads: the features of `--features`, the class probabilities of `--class-targets`.

A column with boxes of its own replaces the regions of the data set: its boxes, features and class probabilities are
used together, and nothing else has the same boxes. Captions stay those of the data set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import CorruptShardError, RefusedError
from vilbert.pipeline.shards.columns.add import NO_VALUE
from vilbert.pipeline.shards.columns.info import REMEDY, ColumnInfo, Member, encode_column, read_column, why_unusable
from vilbert.pipeline.shards.columns.layout import BASE, COLUMN_FILE, COLUMNS_FOLDER, column_folder, column_names
from vilbert.pipeline.shards.columns.shard import ColumnReader, ColumnShard, RegionShard, open_column_file
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.pipeline.shards.location.folder import Folder, open_folder
from vilbert.pipeline.shards.location.layout import data_path
from vilbert.pipeline.shards.record import read_records, records_digest
from vilbert.pipeline.shards.selection.file import Selection
from vilbert.pipeline.shards.storage.store import open_shard
from vilbert.pipeline.train.data.shard_cache import ShardCache
from vilbert.pipeline.urls import join

SUM_TOLERANCE = 0.01
"""Of the class probabilities of a region: what rounding thousands of them to float16 may change their sum by."""
_CLASSES = ("class_ids", "class_probs")


class FeatureColumn(NamedTuple):
    """A column that has vectors of regions for each sample. Small, and the same in every process."""

    name: str
    width: int
    """M, channels of its vectors."""
    folder: Path
    """Where its files lie; the cache's folder of a column behind a URL."""
    url: str | None
    """Where its files come from, where that is not this machine."""
    records_sha256: str
    """One hash for its content."""
    bytes: tuple[int, ...]
    """Size of its file, by shard."""
    sha256: tuple[str, ...]
    """Hex digest of its file, by shard."""
    member: Member = "npy"
    """npy: an array of vectors each sample. regions: boxes, features and labels, as a sample."""
    own_boxes: bool = False
    """Whether its regions are others than those of the data set."""
    top_classes: int = 0
    """K, most probable classes kept of each region; 0 for a column without class ids."""
    class_names: tuple[str, ...] = ()
    """Names by class id."""
    extractor: dict[str, Any] = {}  # noqa: RUF012  # never changed
    """What regions with boxes of their own depend on: facts of the detector and of the selection of boxes."""

    @property
    def target_names(self) -> tuple[str, ...]:
        """Names of the classes that it has probabilities of: its channels, where it is one array of all classes."""
        if self.top_classes:
            return self.class_names
        return tuple(f"{self.name} {channel}" for channel in range(self.width))

    def path(self, shard: int) -> Path:
        """Return where the file of a shard lies, or will once it is fetched."""
        return data_path(self.folder, shard, "tar")

    def open(self, path: Path) -> ColumnReader:
        """Open the file of a shard; CorruptShardError where it is damaged or missing."""
        return open_column_file(path, name=self.name, member=self.member)

    def open_local(self, shard: int) -> ColumnReader:
        """Open a shard of this machine; CorruptShardError where it is damaged, missing or of another size."""
        path = self.path(shard)
        opened = self.open(path)
        if (size := path.stat().st_size) != self.bytes[shard]:
            raise CorruptShardError(f"has {size} bytes, its record says {self.bytes[shard]}", path=path, remedy=REMEDY)
        return opened

    def read(self, opened: ColumnReader, key: str, boxes: int) -> NDArray[np.float16] | NDArray[np.float32]:
        """Return the vectors of a sample's regions, [boxes, M]; CorruptShardError where they are not there."""
        try:
            features: NDArray[np.float16] | NDArray[np.float32] = opened.features(key)
        except KeyError:
            raise self._absent(opened, key) from None
        if features.shape != (boxes, self.width) or features.dtype.kind != "f":
            problem = f"has {features.dtype}{list(features.shape)}, expected [{boxes}, {self.width}] floats"
            raise CorruptShardError(problem, path=opened.path, key=key, remedy=REMEDY)
        return features

    def read_classes(self, opened: ColumnReader, key: str, boxes: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return class ids [boxes, K] and probabilities of a sample's regions: [boxes, K], or [boxes, M] if K is 0.

        Raises:
            CorruptShardError: The sample has none, or of other shapes.
            RefusedError: The column is one of arrays that are not probabilities.
        """
        if not self.top_classes:
            probs = self.read(opened, key, boxes)
            check_class_targets(probs, opened.path, key)
            return np.empty((boxes, 0), np.uint16), probs
        arrays = self._part(opened, key, _CLASSES)
        if arrays["class_ids"].shape != (boxes, self.top_classes):
            shape = list(arrays["class_ids"].shape)
            problem = f"has class_ids {shape}, expected [{boxes}, {self.top_classes}]"
            raise CorruptShardError(problem, path=opened.path, key=key, remedy=REMEDY)
        return arrays["class_ids"], arrays["class_probs"]

    def read_regions(self, opened: ColumnReader, key: str) -> dict[str, NDArray[Any]]:
        """Return boxes [N, 4], features [N, M], class_ids and class_probs [N, K] of a sample; as `read_classes`."""
        arrays = self._part(opened, key, ("boxes", "features", *(_CLASSES if self.top_classes else ())))
        boxes = len(arrays["boxes"])
        if not self.top_classes:
            arrays |= {"class_ids": np.empty((boxes, 0), np.uint16), "class_probs": np.empty((boxes, 0), np.float16)}
        if (arrays["features"].shape[1], arrays["class_ids"].shape[1]) != (self.width, self.top_classes):
            problem = f"has features {list(arrays['features'].shape)} and class_ids {list(arrays['class_ids'].shape)}, "
            problem += f"dataset.json of the column says {self.width} channels and {self.top_classes} classes"
            raise CorruptShardError(problem, path=opened.path, key=key, remedy=REMEDY)
        if arrays["class_ids"].size and (largest := int(arrays["class_ids"].max())) >= len(self.class_names):
            problem = f"has class id {largest}, dataset.json of the column names {len(self.class_names)} classes"
            raise CorruptShardError(problem, path=opened.path, key=key, remedy=REMEDY)
        return arrays

    def _part(self, opened: ColumnReader, key: str, fields: Sequence[str]) -> dict[str, NDArray[Any]]:
        assert isinstance(opened, RegionShard)
        try:
            return opened.part(key, fields).arrays
        except KeyError:
            raise self._absent(opened, key) from None

    @staticmethod
    def _absent(opened: ColumnReader, key: str) -> CorruptShardError:
        return CorruptShardError("has no value", path=opened.path, key=key, remedy=REMEDY)


class EqualImages(NamedTuple):
    """The features of a shard whose images all have the same number of regions, by place: faster than by key."""

    regions: int
    """N, of each image."""
    parts: tuple[NDArray[Any] | None, ...]
    """Vectors [samples, N, M] of each column in the order of `--features`; None for the data set's own features."""


def equal_images(
    features: Sequence[FeatureColumn | None], opened: Mapping[str, ColumnReader], keys: Sequence[str]
) -> EqualImages | None:
    """Return the columns of a shard as arrays over all samples; None where `FeatureColumn.read` has to look at each.

    features: columns, None for the data set's own. opened: the columns' shards by name. keys: of the shard.
    """
    parts: list[NDArray[Any] | None] = []
    regions = set[int]()
    for column in features:
        if column is None:
            parts.append(None)
            continue
        shard = opened[column.name]
        vectors = shard.arrays if isinstance(shard, ColumnShard) else None
        if vectors is None or vectors.ndim != 3 or shard.keys != keys:
            return None
        if vectors.shape[2] != column.width or vectors.dtype.kind != "f":
            return None
        parts.append(vectors)
        regions.add(vectors.shape[1])
    return EqualImages(regions.pop(), tuple(parts)) if len(regions) == 1 else None


class ColumnSource(NamedTuple):
    """The data set whose columns are asked for."""

    info: DatasetInfo
    """Its dataset.json."""
    folder: Path
    """Where it lies; the cache's folder of a remote data set."""
    url: str | None
    """Where its files come from, where that is not this machine."""
    cache: ShardCache | None
    """Where files of a remote data set go."""
    shown: str
    """What messages call it."""
    selection: Selection | None = None
    """The samples that are used; None for all."""

    @property
    def place(self) -> Folder:
        """The folder that the columns are in."""
        return open_folder(self.folder if self.url is None else self.url)


def read_feature_columns(source: ColumnSource, features: Sequence[str]) -> tuple[FeatureColumn | None, ...]:
    """Return the columns that `--features` names, None for the data set's own features.

    Raises:
        RefusedError: There is no such column, or it is not of these samples, or has no vector for each region, or
            features at different boxes are to be concatenated.
    """
    if len(set(features)) != len(features) or not features:
        raise RefusedError(f"--features {' '.join(features)}: give each name once")
    columns = tuple(None if name == BASE else _read(source, name, "--features") for name in features)
    own = next((column.name for column in columns if column is not None and column.own_boxes), None)
    if own is not None and len(features) > 1:
        other = next(name for name in features if name != own)
        raise RefusedError(
            f"{source.shown}: --features {' '.join(features)}: column {own} has boxes of its own, so its features are "
            f"not of the regions that {other} describes; give --features {own} alone, or columns at the same boxes"
        )
    return columns


def read_class_targets(
    source: ColumnSource, name: str, features: Sequence[FeatureColumn | None] = (None,)
) -> FeatureColumn | None:
    """Return the column that `--class-targets` names; None for the class probabilities that belong to the boxes.

    Args:
        source: The data set.
        name: A column, or `base`.
        features: What `read_feature_columns` returned: class probabilities have to be at the same boxes.

    Raises:
        RefusedError: There is no such column, or it is not of these samples, or has no class probabilities of the
            regions that are used.
    """
    own = next((column.name for column in features if column is not None and column.own_boxes), None)
    if name in (BASE, own):
        return None
    column = _read(source, name, "--class-targets")
    if column.own_boxes or own is not None:
        whose, used = (name, "the data set has others") if own is None else (own, f"column {name} is at others")
        raise RefusedError(
            f"{source.shown}: --class-targets {name}: column {whose} has boxes of its own, and {used}; give "
            f"--features {whose} without --class-targets, which then predicts the classes of {whose}"
        )
    if column.member == "regions" and not column.top_classes:
        raise RefusedError(
            f"{source.shown}: --class-targets {name}: the detector of this column has no class probabilities"
        )
    return column


def check_class_targets(probs: NDArray[np.float16] | NDArray[np.float32], path: Path, key: str) -> None:
    """Raise RefusedError where the vectors [N, C] of a sample are not the class probabilities of its regions."""
    sums = probs.sum(axis=1, dtype=np.float32)
    if probs.size and not (probs.min() >= 0 and np.abs(sums - 1).max() <= SUM_TOLERANCE):
        raise RefusedError(
            f"{path}, key {key}: --class-targets needs class probabilities, at least 0 and with the sum 1 for each "
            f"region; it has values from {probs.min():.6g} and sums from {sums.min():.6g} to {sums.max():.6g}"
        )


def _read(source: ColumnSource, name: str, option: str) -> FeatureColumn:
    found = read_column(column_folder(source.place, name))
    if found is None:
        raise RefusedError(f"{source.shown}: {_why_absent(source, name, option)}")
    _refuse_unfit(source, found, name, option)
    if source.selection is None and found.samples != source.info.totals.samples:
        raise RefusedError(f"{source.shown}: column {name} {_missing(source, found)}")
    folder, url = source.folder / COLUMNS_FOLDER / name, None
    if source.url is not None:
        assert source.cache is not None
        url = join(source.url, COLUMNS_FOLDER, name)
        folder = source.cache.fetch_folder(url, COLUMN_FILE, encode_column(found), shards=found.shards)
    records = list(read_records(folder).values())
    if records_digest(records) != found.records_sha256 or len(records) != source.info.shards:
        raise CorruptShardError("its records are not those of column.json", path=folder, remedy=REMEDY)
    assert found.shape is not None
    regions = found.regions
    extractor = {} if regions is None else regions.fingerprint_fields.get("extractor")
    column = FeatureColumn(
        name=name,
        width=int(found.shape[-1] or 0),
        folder=folder,
        url=url,
        records_sha256=found.records_sha256,
        bytes=tuple(record.bytes for record in records),
        sha256=tuple(record.sha256 for record in records),
        member=found.member,
        own_boxes=found.boxes == "own",
        top_classes=0 if regions is None else regions.top_classes,
        class_names=() if regions is None else regions.class_names,
        extractor=extractor if isinstance(extractor, dict) else {},
    )
    if source.url is None and found.samples != source.info.totals.samples:  # behind a URL, where a sample is read
        incomplete = [record.shard for record in records if record.failures or record.dropped.get(NO_VALUE)]
        _require_values(source, column, found, incomplete)
    return column


def _why_absent(source: ColumnSource, name: str, option: str) -> str:
    """Say why a column without column.json cannot be read; a web server need not list what it has."""
    if source.url is not None:
        return f"has no finished column {name}; {option} takes {BASE}, or the name of a column in its {COLUMNS_FOLDER}/"
    if name not in (names := column_names(source.place)):
        return f"has no column {name}; {option} takes: {', '.join([BASE, *names])}"
    return f"column {name} {why_unusable(None, source.info)}"


def _refuse_unfit(source: ColumnSource, found: ColumnInfo, name: str, option: str) -> None:
    """Raise RefusedError where a column is not of these samples, or has no vector for each region."""
    info, shown = source.info, f"{source.shown}: column {name}"
    if why := why_unusable(found, info):
        raise RefusedError(f"{shown} {why}")
    if (found.of_regions is None and found.boxes == "base") or found.dtype not in ("float16", "float32"):
        kind = "JSON values" if found.shape is None else f"{found.dtype} {list(found.shape)}"
        raise RefusedError(f"{shown} holds {kind}; {option} needs floats [N, M], a vector per region")


def _missing(source: ColumnSource, found: ColumnInfo) -> str:
    """Say that samples have no value in a column, and how to leave them out."""
    absent, name = source.info.totals.samples - found.samples, found.name
    return (
        f"has no value for {absent:,} of the samples, training needs one for every sample. Leave these out: "
        f"vilbert select {source.shown} --where \"has('{name}')\" --output with-{name}.parquet, then --selection "
        f"with-{name}.parquet"
    )


def _require_values(source: ColumnSource, column: FeatureColumn, found: ColumnInfo, shards: Sequence[int]) -> None:
    """Raise RefusedError where a selected sample of some shards of this machine has no value."""
    assert source.selection is not None
    for shard in shards:
        places = source.selection.of_shard(shard).tolist()
        path = data_path(source.folder, shard, source.info.storage)
        with open_shard(path, verify=False) as reader, column.open_local(shard) as opened:
            keys = reader.keys()
            if absent := next((keys[place] for place in places if keys[place] not in opened), None):
                where = f"the selected sample {absent} (shard {shard})"
                raise RefusedError(
                    f"{source.shown}: column {column.name} has no value for {where}: it {_missing(source, found)}"
                )
