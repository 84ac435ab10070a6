"""Check the columns of a data set: they must be complete and belong to its samples."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vilbert.pipeline.errors import CorruptShardError, ShardError
from vilbert.pipeline.shards.checks.findings import Finding
from vilbert.pipeline.shards.checks.sample import sample_problems
from vilbert.pipeline.shards.checks.shard import ENOUGH, problem_of
from vilbert.pipeline.shards.columns.info import ColumnInfo, read_column
from vilbert.pipeline.shards.columns.layout import COLUMN_FILE, COLUMNS_FOLDER, column_folder, column_names
from vilbert.pipeline.shards.columns.shard import ColumnReader, open_column_file
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.pipeline.shards.index.energon import encode_tar_index
from vilbert.pipeline.shards.index.names import TAR_INDEX_SUFFIX
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.location.layout import SHARDS_FOLDER, data_path, record_numbers, record_path
from vilbert.pipeline.shards.parallel import map_shards
from vilbert.pipeline.shards.record import read_each_record, read_record, records_digest
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.storage.store import ShardReader, open_shard
from vilbert.pipeline.shards.storage.verified import compare_sha256


class _Task(NamedTuple):
    """The input of a process that checks a column."""

    folder: Folder
    info: DatasetInfo
    column: ColumnInfo
    deep: bool


def check_columns(folder: Folder, info: DatasetInfo, *, deep: bool, workers: int) -> Iterator[Finding]:
    """Check all columns of a complete data set.

    With `deep`, every byte is read. The tar files of a column behind a URL are read only then.
    """
    for name in column_names(folder):
        found = [replace(finding, where=f"{COLUMNS_FOLDER}/{name}/{finding.where}")
                 for finding in _check_column(folder, info, name, deep=deep, workers=workers)]  # fmt: skip
        yield from found[:ENOUGH]


def _finding(folder: Folder, name: str, code: str, where: str, what: str) -> Finding:
    remedy = f"run `vilbert column drop {folder.name} --column {name}` and add it again"
    return Finding(code=code, where=where, what=what, remedy=remedy)


def _check_column(folder: Folder, info: DatasetInfo, name: str, *, deep: bool, workers: int) -> Iterator[Finding]:
    column = column_folder(folder, name)
    finding = partial(_finding, folder, name)
    try:
        found = read_column(column)
    except ShardError as error:
        yield finding("column-damaged", COLUMN_FILE, problem_of(error))
        return
    if found is None:
        yield finding("column-incomplete", COLUMN_FILE, "is not there: the column was not finished")
        return
    if found.name != name:
        yield finding("column-damaged", COLUMN_FILE, f"names the column {found.name!r:.60}")
        return
    if found.base != info.records_sha256 or found.shards != info.shards:
        yield finding("column-stale", COLUMN_FILE, "belongs to other samples: the data set was changed since")
        return
    listed = {file for file, size in column.entries(SHARDS_FOLDER) if size is not None}
    if record_numbers(listed) != list(range(info.shards)):
        yield finding("column-damaged", SHARDS_FOLDER, "does not hold one record for each shard of the data set")
        return
    try:
        records = list(read_each_record(column, range(info.shards)))
    except ShardError as error:
        yield finding("column-damaged", SHARDS_FOLDER, str(error))
        return
    if records_digest(records) != found.records_sha256:
        yield finding("column-damaged", SHARDS_FOLDER, "its records are not those that column.json was written with")
    elif not folder.remote or deep:
        task = _Task(folder, info, found, deep)
        for problems in map_shards(partial(_check_shard, task), range(info.shards), workers=workers, label=name):
            yield from (finding("column-damaged", where, what) for where, what in problems)


def _check_shard(task: _Task, shard: int) -> list[tuple[str, str]]:
    """Return (file, problem) pairs for one shard of a column."""
    file = data_path(Path(), shard, "tar").as_posix()
    try:
        return [(file, what) for what in _shard_problems(task, shard, file)]
    except CorruptShardError as error:
        place = f" key {error.key}" if error.key is not None else ""
        return [(file + place, problem_of(error))]
    except ShardError as error:
        return [(file, problem_of(error))]


def _shard_problems(task: _Task, shard: int, file: str) -> Iterator[str]:
    column = column_folder(task.folder, task.column.name)
    base_file = data_path(Path(), shard, task.info.storage).as_posix()
    record_file = record_path(Path(), shard).as_posix()
    files = [file, record_file, file.removesuffix(".tar") + TAR_INDEX_SUFFIX]
    with task.folder.local([base_file]) as base_directory, column.local(files) as directory:
        record = read_record(directory / record_file)
        if not (directory / file).is_file():
            yield "is not there"
            return
        if (size := (directory / file).stat().st_size) != record.bytes:
            yield f"has {size:,} bytes, its record says {record.bytes:,}"
            return
        if task.deep:
            compare_sha256(directory / file, record.sha256)
        opened = open_column_file(directory / file, name=task.column.name, member=task.column.member)
        with opened, open_shard(base_directory / base_file, verify=False) as reader:
            index = (directory / file).with_suffix(TAR_INDEX_SUFFIX)
            if index.is_file() and index.read_bytes() != encode_tar_index(opened.index):
                yield f"{index.name} does not hold the offsets of its members"
            if len(opened.keys) != record.samples:
                yield f"holds {len(opened.keys)} values, its record says {record.samples}"
            rest = iter(reader.keys())
            if strange := next((key for key in opened.keys if key not in rest), None):
                yield f"key {strange} is not in the data set's shard, or not in its order"
            elif task.deep:
                yield from _value_problems(task.column, opened, reader)


def _value_problems(column: ColumnInfo, opened: ColumnReader, reader: ShardReader) -> Iterator[str]:
    for number, key in enumerate(reader.keys()):
        if key not in opened:
            continue
        value = opened[key]
        if isinstance(value, Sample):
            yield from (f"key {key} {what}" for what in _region_problems(column, value, reader, number))
            continue
        if column.shape is None:
            continue
        sides = [reader.metadata(number)["num_boxes"] if side == "N" else side for side in column.shape]
        fits = isinstance(value, np.ndarray) and value.dtype == column.dtype and value.ndim == len(sides)
        if not fits or any(side not in (None, length) for side, length in zip(sides, value.shape, strict=True)):
            shown = f"{value.dtype}{list(value.shape)}"
            yield f"key {key} has {shown}, column.json says {column.dtype}{sides}"


def _region_problems(column: ColumnInfo, sample: Sample, reader: ShardReader, number: int) -> Iterator[str]:
    """Yield the problems of a column's regions of a sample, and the differences from the data set."""
    assert column.regions is not None
    yield from (what for _, what in sample_problems(sample, column.regions))
    arrays, metadata = reader.read(number, ["boxes"])
    size, expected = (sample.regions.width, sample.regions.height), (metadata["width"], metadata["height"])
    if size != expected:
        yield f"is of {size[0]}x{size[1]} pixels, the data set's image has {expected[0]}x{expected[1]}"
    if metadata.get("sha256") not in (None, sample.meta.get("sha256")):
        yield "is of an image with another sha256 than the data set's"
    if column.boxes == "base" and not np.array_equal(sample.regions.boxes, arrays["boxes"]):
        yield "has other boxes than the data set"
