"""`--features`: which features of a region training reads, of the data set itself and of its columns."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import CorruptShardError, RefusedError
from vilbert.pipeline.shards.columns.info import read_column
from vilbert.pipeline.shards.columns.layout import BASE, column_folder, column_names
from vilbert.pipeline.shards.columns.shard import REMEDY, ColumnShard
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.location.layout import data_path
from vilbert.pipeline.shards.record import read_records, records_digest


class FeatureColumn(NamedTuple):
    """A column that has a vector for each region of each sample. Small, and the same in every process."""

    name: str
    width: int
    """M, channels of its vectors."""
    folder: Path
    """Where its files lie."""
    records_sha256: str
    """One hash for its content."""
    bytes: tuple[int, ...]
    """Size of its file, by shard."""
    sha256: tuple[str, ...]
    """Hex digest of its file, by shard."""

    def path(self, shard: int) -> Path:
        """Return where the file of a shard lies."""
        return data_path(self.folder, shard, "tar")

    def open(self, shard: int) -> ColumnShard:
        """Open a shard; CorruptShardError where it is damaged or missing."""
        path = self.path(shard)
        opened = ColumnShard(path, name=self.name, member="npy")
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


def read_feature_columns(
    folder: Path, info: DatasetInfo, features: Sequence[str], *, shown: str, remote: bool
) -> tuple[FeatureColumn | None, ...]:
    """Return the columns that `--features` names, None for the data set's own features.

    Args:
        folder: Where the data set lies.
        info: Its dataset.json.
        features: `base`, and names of columns.
        shown: What messages call the data set.
        remote: Whether its shards are fetched from elsewhere.

    Raises:
        RefusedError: There is no such column, or it is not of these samples, or has no vector for each region.
    """
    if len(set(features)) != len(features) or not features:
        raise RefusedError(f"--features {' '.join(features)}: give each name once")
    if remote and tuple(features) != (BASE,):
        raise RefusedError(f"{shown}: columns are read from a disk: copy the data set, or leave out --features")
    return tuple(None if name == BASE else _read(folder, info, name, shown) for name in features)


def _read(folder: Path, info: DatasetInfo, name: str, shown: str) -> FeatureColumn:
    base = LocalFolder(folder)
    if name not in (names := column_names(base)):
        raise RefusedError(f"{shown}: has no column {name}; --features takes: {', '.join([BASE, *names])}")
    column = column_folder(base, name)
    assert isinstance(column, LocalFolder)
    found = read_column(column)
    if found is None:
        raise RefusedError(f"{shown}: column {name} is not finished; run the command that writes it again")
    if found.base != info.records_sha256:
        raise RefusedError(f"{shown}: column {name} is of an older state of the data set; drop it and add it again")
    if found.of_regions is None or found.dtype not in ("float16", "float32"):
        kind = "JSON values" if found.shape is None else f"{found.dtype} {list(found.shape)}"
        raise RefusedError(f"{shown}: column {name} holds {kind}; --features needs floats [N, M], a vector per region")
    if found.samples != info.totals.samples:
        absent = info.totals.samples - found.samples
        raise RefusedError(f"{shown}: column {name} has no value for {absent:,} of the samples, training needs all")
    records = list(read_records(column.path).values())
    if records_digest(records) != found.records_sha256 or len(records) != info.shards:
        raise CorruptShardError("its records are not those of column.json", path=column.path, remedy=REMEDY)
    return FeatureColumn(
        name=name,
        width=found.of_regions,
        folder=column.path,
        records_sha256=found.records_sha256,
        bytes=tuple(record.bytes for record in records),
        sha256=tuple(record.sha256 for record in records),
    )
