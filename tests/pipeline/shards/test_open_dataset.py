"""A data set as a sequence of samples, and paths as a Python user types them."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import pytest

from vilbert.manifests.manifest import Manifest
from vilbert.pipeline.errors import CorruptShardError, ShardError
from vilbert.pipeline.shards.dataset import read_dataset
from vilbert.pipeline.shards.location.layout import StorageFormat
from vilbert.pipeline.shards.open_dataset import open_dataset
from vilbert.pipeline.shards.storage.store import open_shard
from vilbert.pipeline.train.data.corpus import Corpus

from .conftest import write_small_dataset


@pytest.mark.parametrize("storage", ["tar", "lmdb"])
def test_samples_are_in_the_order_of_the_shards(tmp_path: Path, storage: StorageFormat) -> None:
    small = write_small_dataset(
        tmp_path, storage=storage, failed={4: "corrupt", 5: "corrupt", 6: "corrupt", 7: "corrupt"}
    )
    keys = [sample.key for shard in (0, 1, 2) for sample in open_shard(small.data_file(shard))]
    with open_dataset(small.directory) as dataset:
        assert [sample.key for sample in dataset] == keys
        assert len(dataset) == len(keys) == 6
        assert dataset[-1].key == keys[-1]
        assert [sample.key for sample in dataset[3:5]] == keys[3:5]
        assert dataset.info.class_names == small.info.class_names
        for beyond in (6, -7):
            with pytest.raises(IndexError, match=f"sample {beyond} of 6"):
                dataset[beyond]


@pytest.mark.parametrize("storage", ["tar", "lmdb"])
def test_a_changed_bit_in_a_data_set_behind_a_url_is_found(tmp_path: Path, storage: StorageFormat) -> None:
    small = write_small_dataset(tmp_path, storage=storage)
    memory = fsspec.filesystem("memory")
    memory.put(str(small.directory), "/open-dataset", recursive=True)
    try:
        with open_dataset("memory://open-dataset") as dataset:
            assert len(list(dataset)) == 7
        data = bytearray(small.data_file(0).read_bytes())
        features = small_features(small.data_file(0))
        data[data.index(features) + 5] ^= 1  # inside an array: no structure breaks
        memory.pipe(f"/open-dataset/shards/{small.data_file(0).name}", bytes(data))
        with (
            open_dataset("memory://open-dataset") as dataset,
            pytest.raises(CorruptShardError, match=r"memory://open-dataset/shards/000000\..*SHA-256"),
        ):
            dataset[0]
    finally:
        memory.rm("/open-dataset", recursive=True)


def small_features(shard: Path) -> bytes:
    with open_shard(shard) as reader:
        return reader[0].regions.features.tobytes()[:64]


def test_what_is_no_data_set_or_not_complete_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match=r"no dataset\.json"):
        open_dataset(str(tmp_path))


@pytest.mark.parametrize("form", [str, Path, os.fspath, lambda path: DirEntry(path)])
def test_paths_of_every_kind_are_taken(tmp_path: Path, form: object) -> None:
    assert callable(form)
    small = write_small_dataset(tmp_path)
    assert read_dataset(form(small.directory)) == small.info
    assert open_dataset(form(small.directory)).info == small.info
    with open_shard(form(small.data_file(0))) as shard:
        assert len(shard) == 3
    assert Manifest.open(form(small.manifest)).rows == 10
    for given in (form(small.directory), [form(small.directory)]):
        assert sum(len(sizes) for sizes in Corpus.open(given, split=None).shard_sizes) == 3


class DirEntry:
    """Something with a path, as `os.scandir` yields."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)
