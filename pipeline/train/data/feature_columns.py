"""Columns that training reads: the features of `--features`, the class probabilities of `--class-targets`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import CorruptShardError, RefusedError
from vilbert.pipeline.shards.columns.info import ColumnInfo, encode_column, read_column
from vilbert.pipeline.shards.columns.layout import BASE, COLUMN_FILE, COLUMNS_FOLDER, column_folder, column_names
from vilbert.pipeline.shards.columns.shard import REMEDY, ColumnShard
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.pipeline.shards.location.folder import Folder, open_folder
from vilbert.pipeline.shards.location.layout import data_path
from vilbert.pipeline.shards.record import read_records, records_digest
from vilbert.pipeline.train.data.shard_cache import ShardCache
from vilbert.pipeline.urls import join

SUM_TOLERANCE = 0.01
"""Of the class probabilities of a region: what rounding thousands of them to float16 may change their sum by."""


class FeatureColumn(NamedTuple):
    """A column that has a vector for each region of each sample. Small, and the same in every process."""

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

    @property
    def channel_names(self) -> tuple[str, ...]:
        """Names for its channels, as classes."""
        return tuple(f"{self.name} {channel}" for channel in range(self.width))

    def path(self, shard: int) -> Path:
        """Return where the file of a shard lies, or will once it is fetched."""
        return data_path(self.folder, shard, "tar")

    def open(self, path: Path) -> ColumnShard:
        """Open the file of a shard; CorruptShardError where it is damaged or missing."""
        return ColumnShard(path, name=self.name, member="npy")

    def open_local(self, shard: int) -> ColumnShard:
        """Open a shard of this machine; CorruptShardError where it is damaged, missing or of another size."""
        path = self.path(shard)
        opened = self.open(path)
        if (size := path.stat().st_size) != self.bytes[shard]:
            raise CorruptShardError(f"has {size} bytes, its record says {self.bytes[shard]}", path=path, remedy=REMEDY)
        return opened

    def read(self, opened: ColumnShard, key: str, boxes: int) -> NDArray[np.float16] | NDArray[np.float32]:
        """Return the vectors of a sample's regions, [boxes, M]; CorruptShardError where they are not there."""
        try:
            features: NDArray[np.float16] | NDArray[np.float32] = opened[key]
        except KeyError:
            raise CorruptShardError("has no value", path=opened.path, key=key, remedy=REMEDY) from None
        if features.shape != (boxes, self.width) or features.dtype.kind != "f":
            problem = f"has {features.dtype}{list(features.shape)}, expected [{boxes}, {self.width}] floats"
            raise CorruptShardError(problem, path=opened.path, key=key, remedy=REMEDY)
        return features


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

    @property
    def place(self) -> Folder:
        """The folder that the columns are in."""
        return open_folder(self.folder if self.url is None else self.url)


def read_feature_columns(source: ColumnSource, features: Sequence[str]) -> tuple[FeatureColumn | None, ...]:
    """Return the columns that `--features` names, None for the data set's own features.

    Raises:
        RefusedError: There is no such column, or it is not of these samples, or has no vector for each region.
    """
    if len(set(features)) != len(features) or not features:
        raise RefusedError(f"--features {' '.join(features)}: give each name once")
    return tuple(None if name == BASE else _read(source, name, "--features") for name in features)


def read_class_targets(source: ColumnSource, name: str) -> FeatureColumn | None:
    """Return the column that `--class-targets` names, None for the data set's own class probabilities.

    Raises:
        RefusedError: There is no such column, or it is not of these samples, or has no vector for each region.
    """
    return None if name == BASE else _read(source, name, "--class-targets")


def check_class_targets(probs: NDArray[np.float16] | NDArray[np.float32], path: Path, key: str) -> None:
    """Raise RefusedError where the vectors [N, C] of a sample are not the class probabilities of its regions."""
    sums = probs.sum(axis=1, dtype=np.float32)
    if probs.size and not (probs.min() >= 0 and np.abs(sums - 1).max() <= SUM_TOLERANCE):
        raise RefusedError(
            f"{path}, key {key}: --class-targets needs class probabilities, at least 0 and with the sum 1 for each "
            f"region; it has values from {probs.min():.6g} and sums from {sums.min():.6g} to {sums.max():.6g}"
        )


def _read(source: ColumnSource, name: str, option: str) -> FeatureColumn:
    column = column_folder(source.place, name)
    found = read_column(column)
    if found is None:
        raise RefusedError(f"{source.shown}: {_why_absent(source, name, option)}")
    _refuse_unfit(source, found, name, option)
    folder, url = source.folder / COLUMNS_FOLDER / name, None
    if source.url is not None:
        assert source.cache is not None
        url = join(source.url, COLUMNS_FOLDER, name)
        folder = source.cache.fetch_folder(url, COLUMN_FILE, encode_column(found), shards=found.shards)
    records = list(read_records(folder).values())
    if records_digest(records) != found.records_sha256 or len(records) != source.info.shards:
        raise CorruptShardError("its records are not those of column.json", path=folder, remedy=REMEDY)
    assert found.of_regions is not None
    return FeatureColumn(
        name=name,
        width=found.of_regions,
        folder=folder,
        url=url,
        records_sha256=found.records_sha256,
        bytes=tuple(record.bytes for record in records),
        sha256=tuple(record.sha256 for record in records),
    )


def _why_absent(source: ColumnSource, name: str, option: str) -> str:
    """Say why a column without column.json cannot be read; a web server need not list what it has."""
    if source.url is not None:
        return f"has no finished column {name}; {option} takes {BASE}, or the name of a column in its {COLUMNS_FOLDER}/"
    if name not in (names := column_names(source.place)):
        return f"has no column {name}; {option} takes: {', '.join([BASE, *names])}"
    return f"column {name} is not finished; run the command that writes it again"


def _refuse_unfit(source: ColumnSource, found: ColumnInfo, name: str, option: str) -> None:
    """Raise RefusedError where a column is not of these samples, or has no vector for each region."""
    info, shown = source.info, f"{source.shown}: column {name}"
    if found.base != info.records_sha256:
        raise RefusedError(f"{shown} is of an older state of the data set; drop it and add it again")
    if found.of_regions is None or found.dtype not in ("float16", "float32"):
        kind = "JSON values" if found.shape is None else f"{found.dtype} {list(found.shape)}"
        raise RefusedError(f"{shown} holds {kind}; {option} needs floats [N, M], a vector per region")
    if found.samples != info.totals.samples:
        absent = info.totals.samples - found.samples
        raise RefusedError(f"{shown} has no value for {absent:,} of the samples, training needs all")
