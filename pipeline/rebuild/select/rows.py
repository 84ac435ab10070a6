"""The samples of a data set that an expression selects, shard by shard; no feature is read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vilbert.documents import is_digest
from vilbert.pipeline.errors import CorruptShardError, RefusedError
from vilbert.pipeline.rebuild.select.values import ShardValues, ValueColumns
from vilbert.pipeline.rebuild.where import Where, WhereError
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.location.layout import data_path
from vilbert.pipeline.shards.record import ShardRecord, read_each_record
from vilbert.pipeline.shards.selection.file import Selection, selection_schema
from vilbert.pipeline.shards.storage.store import open_shard

if TYPE_CHECKING:
    import pyarrow as pa

_HASH = re.compile("[0-9a-fA-F]{16}")  # int() takes signs and underscores too
PHASH = "phash"
"""Field of a column of scores: the perceptual hash of the image, 16 hex digits."""


@dataclass(kw_only=True, eq=False)
class Rows:
    """Some samples of a shard. S samples."""

    table: pa.Table
    """Table with the columns of `selection_schema`."""
    sha256: NDArray[np.uint64]
    """[S] first 64 bits of the SHA-256 of each image's bytes; 0 if unknown."""
    phash: NDArray[np.uint64]
    """[S] perceptual hashes; 0 for a missing one, see `has_phash`."""
    has_phash: NDArray[np.bool_]
    """[S]."""
    considered: int
    """Number of samples of the shard before the expression is applied."""


def scan_rows(
    folder: Folder,
    info: DatasetInfo,
    columns: ValueColumns,
    *,
    where: Where | None = None,
    within: Selection | None = None,
    phash: str | None = None,
) -> Iterator[Rows]:
    """Yield the samples of each shard for which an expression is true.

    Args:
        folder: A complete data set.
        info: Its dataset.json.
        columns: Its columns.
        where: The expression; None for all samples.
        within: Only samples of this selection; None for all.
        phash: Column with the field `phash`; None if perceptual hashes are not needed.

    Raises:
        RefusedError: The expression has no value for a sample.
        CorruptShardError: A shard is damaged.
    """
    for name in where.columns if where is not None else ():
        columns.require(name)
    for record in read_each_record(folder, range(info.shards)):
        if record.samples:
            places = None if within is None else within.of_shard(record.shard)
            yield _scan_shard(folder, info, columns, record, where=where, places=places, phash=phash)


def _scan_shard(
    folder: Folder,
    info: DatasetInfo,
    columns: ValueColumns,
    record: ShardRecord,
    *,
    where: Where | None,
    places: NDArray[np.uint32] | None,
    phash: str | None,
) -> Rows:
    import pyarrow as pa

    rows: list[tuple[str, str, str, int, int]] = []
    hashes: list[tuple[int, int, bool]] = []
    file = data_path(Path(), record.shard, info.storage).as_posix()
    with ExitStack() as stack:
        directory = stack.enter_context(folder.local([file]))
        reader = stack.enter_context(open_shard(directory / file, verify=False))
        values = stack.enter_context(ShardValues(columns, record.shard))
        if len(reader) != record.samples:
            problem = f"holds {len(reader)} samples, its record says {record.samples}"
            raise CorruptShardError(problem, path=reader.path)
        keys = reader.keys()
        candidates = range(len(reader)) if places is None else places.tolist()
        for place in candidates:
            key, metadata = keys[place], reader.metadata(place)
            if where is not None and not _selects(where, values.sample(key, metadata)):
                continue
            rows.append((metadata["image_id"], key, str(metadata.get("split", "")), record.shard, place))
            sha256 = metadata.get("sha256")
            prefix = int(str(sha256)[:16], 16) if is_digest(sha256) else 0
            number = None if phash is None else _phash_of(values, phash, key)
            hashes.append((prefix, number or 0, number is not None))
    transposed = zip(*rows, strict=True) if rows else [[]] * len(selection_schema())
    try:
        arrays = [pa.array(list(some), field.type) for some, field in zip(transposed, selection_schema(), strict=True)]
    except UnicodeEncodeError as error:
        raise CorruptShardError(f"holds text that UTF-8 cannot hold: {error.object!r:.80}", path=reader.path) from None
    return Rows(
        table=pa.table(arrays, schema=selection_schema()),
        sha256=np.array([it[0] for it in hashes], np.uint64),
        phash=np.array([it[1] for it in hashes], np.uint64),
        has_phash=np.array([it[2] for it in hashes], bool),
        considered=len(candidates),
    )


def _selects(where: Where, sample: Any) -> bool:
    try:
        return where.selects(sample)
    except WhereError as error:
        raise RefusedError(str(error)) from None


def _phash_of(values: ShardValues, column: str, key: str) -> int | None:
    """Return the perceptual hash of a sample; None if it has none."""
    opened = values.column(column)
    if key not in opened:
        return None
    value = opened[key]
    text = value.get(PHASH) if isinstance(value, dict) else None
    return int(text, 16) if isinstance(text, str) and _HASH.fullmatch(text) else None


def find_phash_column(columns: ValueColumns) -> str | None:
    """Return the name of the column whose values have the field `phash`; None if no column has it.

    Raises:
        RefusedError: Several columns have one.
    """
    found = [name for name, info in columns.usable.items() if info.samples and _has_phash(columns, name, info.shards)]
    if len(found) > 1:
        raise RefusedError(
            f"{columns.folder.name}: the columns {', '.join(found)} have perceptual hashes; drop all but one"
        )
    return found[0] if found else None


def _has_phash(columns: ValueColumns, name: str, shards: int) -> bool:
    """Return whether the first values of a column are objects with a perceptual hash."""
    looked = 0
    for shard in range(shards):
        with ShardValues(columns, shard) as values:
            for key in values.column(name).keys[:100]:
                if _phash_of(values, name, key) is not None:
                    return True
                looked += 1
        if looked >= 1000:
            break
    return False
