"""Find one sample of a data set by its number, its key or its image id."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.pipeline.shards.keys import sample_key
from vilbert.pipeline.shards.location.folder import Folder, open_folder
from vilbert.pipeline.shards.location.layout import data_path, record_path
from vilbert.pipeline.shards.record import ShardRecord
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.storage.store import open_shard
from vilbert.pipeline.terminal import counted


class Place(NamedTuple):
    """Position of a sample."""

    number: int
    """Index in the data set, from 0."""
    shard: int
    sample: int
    """Index in the shard, from 0."""


def find_sample(folder: Folder, info: DatasetInfo, records: dict[int, ShardRecord], selector: int | str) -> Place:
    """Return the position of a sample; raise ShardError if it does not exist."""
    first = 0
    for shard, record in records.items():
        if isinstance(selector, int):
            if selector < first + record.samples:
                return Place(selector, shard, selector - first)
        else:
            name = data_path(Path(), shard, info.storage).as_posix()
            with folder.local([name]) as directory, open_shard(directory / name, verify=False) as reader:
                if (key := sample_key(selector)) in (keys := reader.keys()):
                    return Place(first + keys.index(key), shard, keys.index(key))
        first += record.samples
    if isinstance(selector, int):
        raise ShardError(f"{folder.name}:{selector}: the data set has {counted(first, 'sample')}, numbered from 0")
    raise ShardError(f"{folder.name}#{selector}: no sample of {first:,} has this key or image id")


def read_sample(place_of_data: Path | str, info: DatasetInfo, place: Place) -> Sample:
    """Return the sample at a position."""
    folder, name = open_folder(place_of_data), data_path(Path(), place.shard, info.storage).as_posix()
    record = record_path(Path(), place.shard).as_posix()
    with folder.local([name, record]) as directory, open_shard(directory / name) as reader:
        if place.sample >= len(reader):
            raise ShardError(
                f"{folder.name}/{name}: holds fewer samples than its record says; run `vilbert verify {folder.name}`"
            )
        return reader[place.sample]
