"""Other tools' own readers open a data set by its side files. Each test says what to install where it is skipped."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vilbert.extractors.regions import Regions
from vilbert.pipeline.shards.columns.add import add_column
from vilbert.pipeline.shards.columns.values_file import open_values
from vilbert.pipeline.shards.index.write import index_dataset
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.open_dataset import open_dataset

from ..columns.made import make_region_column
from ..conftest import write_small_dataset

MakeDataset = Callable[..., Any]


@pytest.fixture
def indexed(make_dataset: MakeDataset) -> Any:
    """A data set of three shards: `train`, `val`, and both."""
    splits = ["train"] * 4 + ["val"] * 4 + ["train", "val"]
    data = make_dataset(failed={}, shard_size=4, change=lambda row, sample: with_split(sample, splits[row]))
    index_dataset(LocalFolder(data.directory))
    return data


def with_split(sample: Any, split: str) -> Any:
    sample.meta["split"] = split
    return sample


def run_python(code: str, directory: Path, **environment: str) -> str:
    """Return what a Python process prints: it has no state of other tests' imports."""
    done = subprocess.run(
        [sys.executable, "-c", code, str(directory)],
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_datasets(indexed: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="pip install datasets")
    loaded = datasets.load_dataset(str(indexed.directory), cache_dir=str(tmp_path / "cache"))
    assert {name: len(split) for name, split in loaded.items()} == {"train": 4, "val": 4, "train_val": 2}
    with open_dataset(indexed.directory) as samples:
        for row, sample in zip(loaded["val"].with_format("numpy"), samples[4:8], strict=True):
            assert row["__key__"] == sample.key
            assert row["json"]["split"] == "val"
            for name, array in sample.regions.arrays().items():
                assert row[f"{name}.npy"].shape == array.shape, name
                assert np.array_equal(row[f"{name}.npy"].astype(array.dtype), array), name
        streamed = next(iter(datasets.load_dataset(str(indexed.directory), split="val", streaming=True)))
        assert streamed["features.npy"].dtype == np.float16
        assert np.array_equal(streamed["features.npy"], samples[4].regions.features)


def test_datasets_reads_the_rows_of_an_lmdb_data_set(
    make_dataset: MakeDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="pip install datasets")
    data = make_dataset(storage="lmdb")
    index_dataset(LocalFolder(data.directory))
    loaded = datasets.load_dataset(str(data.directory), cache_dir=str(tmp_path / "cache"))
    assert len(loaded["train_val"]) == data.info.totals.samples


def test_wids(indexed: Any, tmp_path: Path) -> None:
    wids = pytest.importorskip("wids", reason="pip install wids")
    with open_dataset(indexed.directory) as samples:
        opened = wids.ShardListDataset(str(indexed.directory / "shardindex.json"), cache_dir=str(tmp_path / "wids"))
        assert len(opened) == len(samples)
        for number in (0, 5, 9):
            assert opened[number]["__key__"] == samples[number].key
            assert np.array_equal(opened[number][".features.npy"], samples[number].regions.features)


@pytest.mark.slow
def test_the_command_mlcroissant_validate(indexed: Any) -> None:
    pytest.importorskip("mlcroissant", reason="pip install mlcroissant")
    command = [sys.executable, "-c", "from mlcroissant.scripts.cli import main; main()", "validate", "--jsonld"]
    described = indexed.directory / "croissant.json"
    done = subprocess.run([*command, str(described)], capture_output=True, text=True, check=False)
    assert (done.returncode, "Done." in done.stderr + done.stdout) == (0, True), done.stderr
    described.write_text(described.read_text().replace('"cr:FileObject"', '"cr:FileThing"'))
    assert subprocess.run([*command, str(described)], capture_output=True, check=False).returncode == 1


def test_mlcroissant(indexed: Any) -> None:
    croissant = pytest.importorskip("mlcroissant", reason="pip install mlcroissant")
    described = croissant.Dataset(jsonld=str(indexed.directory / "croissant.json"))
    assert not described.metadata.ctx.issues.errors
    rows = list(described.records("samples"))
    with open_dataset(indexed.directory) as samples:
        assert [row["samples/key"].decode() for row in rows] == [sample.key for sample in samples]
        assert rows[2]["samples/captions"] == [caption.encode() for caption in samples[2].meta["captions"]]


ENERGON = """
import sys
from megatron.energon import (
    Cooker, DefaultTaskEncoder, Sample, WorkerConfig, basic_sample_keys, edataclass, get_loader, get_val_dataset,
    stateless,
)

@edataclass
class Item(Sample):
    features: object
    metadata: object

@stateless
def cook(sample):
    return Item(**basic_sample_keys(sample), features=sample["features.npy"], metadata=sample["json"])

class Encoder(DefaultTaskEncoder):
    cookers = [Cooker(cook)]

    def batch(self, samples):
        return samples

for split in ("train", "val", "train_val"):
    data = get_val_dataset(
        sys.argv[1], split_part=split, batch_size=1, task_encoder=Encoder(),
        worker_config=WorkerConfig.default_worker_config(0),
    )
    for (item,) in get_loader(data):
        print(split, item.__key__, item.features.dtype, item.metadata["split"])
"""


@pytest.mark.slow
def test_energon(indexed: Any) -> None:
    pytest.importorskip("megatron.energon", reason="pip install megatron-energon")
    lines = [line.split() for line in run_python(ENERGON, indexed.directory).splitlines()]
    with open_dataset(indexed.directory) as samples:
        expected = {
            (split, sample.key, "float16", sample.meta["split"])
            for split, part in (("train", samples[:4]), ("val", samples[4:8]), ("train_val", samples[8:]))
            for sample in part
        }
    assert {tuple(line) for line in lines} == expected
    prepare = [sys.executable, "-m", "megatron.energon.cli.main", "prepare", "--non-interactive", "--force-overwrite"]
    prepare += ["--split-ratio", "1,0,0", "--sample-type", "CrudeWebdataset", str(indexed.directory)]
    subprocess.run(prepare, check=True, capture_output=True)
    indexed.manifest.unlink()  # it has other splits
    assert indexed.findings(deep=True) == ()


ENERGON_AUX = (
    ENERGON.split("@stateless")[0]
    + """
@stateless
def cook(sample, dino):
    return Item(
        **basic_sample_keys(sample), features=dino.get(sample["__key__"] + ".dino.npy", sample), metadata=sample["json"]
    )

class Encoder(DefaultTaskEncoder):
    cookers = [Cooker(cook)]

    def batch(self, samples):
        return samples

data = get_val_dataset(
    sys.argv[1], batch_size=1, task_encoder=Encoder(), worker_config=WorkerConfig.default_worker_config(0)
)
for (item,) in get_loader(data):
    print(item.__key__, item.features.shape[0], item.features.ravel()[0])
"""
)


@pytest.mark.slow
def test_energon_reads_a_column_beside_the_data_set(indexed: Any, tmp_path: Path) -> None:
    pytest.importorskip("megatron.energon", reason="pip install megatron-energon")
    with open_dataset(indexed.directory) as samples:
        keys = {sample.meta["image_id"]: (sample.key, len(sample.regions)) for sample in samples}
    values = np.stack([np.full((boxes, 2), number, np.float32) for number, (_, boxes) in enumerate(keys.values())])
    np.save(tmp_path / "dino.npy", values)
    (tmp_path / "ids.txt").write_text("\n".join(keys))
    opened = open_values(tmp_path / "dino.npy", ids=tmp_path / "ids.txt", id_column="", value_column=None)
    add_column(LocalFolder(indexed.directory), "dino", opened, missing="error")
    (tmp_path / "joined.yaml").write_text(
        "__module__: megatron.energon\n__class__: MetadatasetV2\nsplits:\n  val:\n    path: data\n"
        "    split_part: val\n    aux:\n      dino: data/columns/dino\n"
    )
    lines = {tuple(line.split()) for line in run_python(ENERGON_AUX, tmp_path / "joined.yaml").splitlines()}
    expected = list(enumerate(keys.values()))[4:8]
    assert lines == {(key, str(boxes), f"{number}.0") for number, (key, boxes) in expected}


@pytest.mark.slow
def test_energon_reads_the_regions_of_a_column_beside_the_data_set(indexed: Any, tmp_path: Path) -> None:
    pytest.importorskip("megatron.energon", reason="pip install megatron-energon")
    (tmp_path / "other").mkdir()
    other = write_small_dataset(
        tmp_path / "other", failed={}, shard_size=4, change=lambda row, sample: with_regions(sample, row)
    )
    make_region_column(indexed.directory, other.directory, "second")
    with open_dataset(indexed.directory) as samples:
        keys = [sample.key for sample in samples]
    (tmp_path / "joined.yaml").write_text(
        "__module__: megatron.energon\n__class__: MetadatasetV2\nsplits:\n  val:\n    path: data\n"
        "    split_part: val\n    aux:\n      dino: data/columns/second\n"
    )
    code = ENERGON_AUX.replace(".dino.npy", ".features.npy")
    lines = {tuple(line.split()) for line in run_python(code, tmp_path / "joined.yaml").splitlines()}
    assert lines == {(keys[row], "2", f"{row}.0") for row in range(4, 8)}


def with_regions(sample: Any, row: int) -> Any:
    regions = sample.regions
    arrays = {name: array[:2] for name, array in regions.arrays().items()}
    arrays["features"] = np.full_like(arrays["features"], row)
    return replace(sample, regions=Regions(**arrays, width=regions.width, height=regions.height))
