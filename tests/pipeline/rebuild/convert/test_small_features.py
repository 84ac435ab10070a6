"""Data sets of int8 and float8 features: what converts to them and back, and every command that reads features."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.shards.dataset import read_dataset
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.loader import batches
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.engine.share import Share
from vilbert.pipeline.train.examples.batch import make_batches
from vilbert.pipeline.train.examples.inputs import to_model_inputs
from vilbert.pipeline.train.examples.item_settings import ItemSettings
from vilbert.pipeline.train.examples.words import new_tokenizer

from .conftest import files, samples
from .test_convert import totals

Source = Callable[..., Path]
Run = Callable[..., Path]
NAMES = pytest.mark.parametrize("name", ["int8", "float8_e4m3fn"])


@pytest.mark.parametrize(("name", "dtype", "storage"), [("int8", "int8", "tar"), ("float8_e4m3fn", "uint8", "lmdb")])
def test_there_and_back(source: Source, run: Run, name: str, dtype: str, storage: str) -> None:
    data = source("a", storage=storage)
    small = run("small", data, feature_dtype=name, format=storage)
    info = read_dataset(small)
    assert info.format == 3
    assert info.fields["features"]["dtype"] == dtype
    assert info.fields["feature_scales"] == {"dtype": "float32", "shape": ["N", 2]}
    back = run("back", small, feature_dtype="float16", format=storage)
    assert read_dataset(back).format == 2
    copied = run("copied", small, format=storage, shard_size=3)
    other = run("other", small, format="lmdb" if storage == "tar" else "tar", max_boxes=2)
    found = {one.name: samples(one) for one in (small, back, copied, other)}
    for image_id, exact in samples(data).items():
        read = found["small"][image_id].regions.features
        assert read.dtype == np.float16
        np.testing.assert_allclose(read, exact.regions.features, atol=0.12)
        np.testing.assert_array_equal(found["back"][image_id].regions.features, read, strict=True)
        np.testing.assert_array_equal(found["copied"][image_id].regions.features, read, strict=True)
        assert exact.regions.object_scores is not None
        best = np.sort(np.argsort(-exact.regions.object_scores, kind="stable")[:2])
        np.testing.assert_array_equal(found["other"][image_id].regions.features, read[best], strict=True)


def test_a_mixed_source_is_brought_to_one_dtype(source: Source, run: Run) -> None:
    small = run("small", source("a"), feature_dtype="int8")
    other = source("b", image_id=lambda row: f"other{row}")
    both = run("both", small, other, feature_dtype="int8")
    assert totals(both) == (14, 6, {})
    merged = samples(both)
    for image_id, sample in samples(small).items():
        assert merged[image_id].arrays()["features"].tobytes() == sample.arrays()["features"].tobytes()


def test_imprecise_samples_are_dropped_and_counted(source: Source, run: Run) -> None:
    def spread(row: int, sample: Sample) -> Sample:
        features = np.random.default_rng(row).standard_normal((len(sample.regions), 4096)).astype(np.float16)
        if row == 1:
            features[0, 0] = -64
        return replace(sample, regions=replace(sample.regions, features=features))

    from ...shards import conftest

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(conftest, "FEATURE_DIM", 4096)
        data = source("a", change=spread)
    assert totals(run("small", data, feature_dtype="int8")) == (6, 3, {"feature_precision": 1})


def test_training_reads_what_the_samples_hold(source: Source, run: Run) -> None:
    small = run("small", source("a"), feature_dtype="int8")
    corpus = Corpus.open(small, split=None)
    order = Order(corpus.shard_sizes, seed=3, window=4)
    expected = samples(small)
    found = corpus.read(order.at(np.arange(order.epoch_size)))
    assert len(found) == len(expected)
    for example in found:
        assert example is not None
        np.testing.assert_array_equal(example.features, expected[example.image_id].regions.features, strict=True)


@NAMES
def test_a_model_is_given_the_same_numbers_as_from_float16(source: Source, run: Run, name: str) -> None:
    small = run("small", source("a"), feature_dtype=name)
    half = run("half", small, feature_dtype="float16")
    tokenizer = new_tokenizer(["a caption of a scene"])
    share = Share(rank=0, world=1, accumulation=2, batch_size=6)
    found = []
    for folder, num_workers in ((half, 0), (small, 0), (small, 1)):
        corpus = Corpus.open(folder, split=None)
        order = Order(corpus.shard_sizes, seed=3, window=4)
        make = partial(make_batches, corpus, order, tokenizer, ItemSettings(), share, seed=4)
        parts = [part for step in batches(make, range(3), num_workers=num_workers) for part in step]
        assert all((part.feature_scales is None) == (folder == half) for part in parts)
        inputs = [to_model_inputs(part, "cpu", num_classes=1601, visual_target=1) for part in parts]
        found.append([{name: value.numpy().tobytes() for name, value in part.items()} for part in inputs])
    assert found[0] == found[1] == found[2]


@NAMES
def test_exports_are_those_of_the_same_features_in_float16(source: Source, run: Run, tmp_path: Path, name: str) -> None:
    small = run("small", source("a"), feature_dtype=name)
    half = run("half", small, feature_dtype="float16")
    for to, suffix in (("parquet", ".parquet"), ("lxmert-tsv", ".tsv")):
        outputs = [tmp_path / f"{of.name}{suffix}" for of in (small, half)]
        for data, output in zip((small, half), outputs, strict=True):
            assert main(["export", str(data), "--to", to, "--output", str(output)]) == 0
        assert outputs[0].read_bytes() == outputs[1].read_bytes(), to


@NAMES
def test_commands_that_show_features(
    source: Source, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    small = run("small", source("a"), feature_dtype=name)
    half = run("half", small, feature_dtype="float16")
    capsys.readouterr()
    assert main(["compare", str(half), str(small), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["verdict"] == "identical"
    assert main(["stats", str(small), "--json"]) == 0
    capsys.readouterr()
    assert main(["inspect", f"{small}:0", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["fields"]["features"]
    exact = next(iter(samples(small).values())).regions.features
    assert shown["dtype"] == str(read_dataset(small).fields["features"]["dtype"])
    assert (shown["min"], shown["max"]) == (exact.min(), exact.max())
    assert main(["index", str(small)]) == 0
    assert main(["verify", str(small), "--deep"]) == 0


def test_a_resumed_conversion_writes_the_same_bytes(source: Source, run: Run) -> None:
    data = source("a")
    whole = files(run("whole", data, feature_dtype="int8", shard_size=3))
    output = run("again", data, feature_dtype="int8", shard_size=3)
    (output / "shards/000001.json").unlink()
    assert (
        files(run("again", data, feature_dtype="int8", shard_size=3))["shards/000001.tar"] == whole["shards/000001.tar"]
    )


def test_hugging_face_datasets_gives_codes_and_scales(
    source: Source, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets", reason="pip install datasets")
    small = run("small", source("a"), feature_dtype="int8")
    loaded = datasets.load_dataset(str(small), cache_dir=str(tmp_path / "cache"), split="train_val").with_format(
        "numpy"
    )
    for row, sample in zip(loaded, samples(small).values(), strict=True):
        scale, zero = row["feature_scales.npy"].T[..., None]
        codes = row["features.npy"] + zero
        np.testing.assert_array_equal((scale * codes * abs(codes)).astype(np.float16), sample.regions.features)


def test_columns_of_vectors_are_appended_in_float16(source: Source, run: Run, tmp_path: Path) -> None:
    small = run("small", source("a"), feature_dtype="int8")
    before = samples(small)
    vectors = [[[0.5, 1.0, 2.0]] * len(sample.regions) for sample in before.values()]
    table = pa.table({"image_id": list(before), "v": pa.array(vectors, pa.list_(pa.list_(pa.float32())))})
    pq.write_table(table, tmp_path / "v.parquet")
    assert main(["column", "add", str(small), str(tmp_path / "v.parquet"), "--column", "v"]) == 0
    output = run("out", small, columns=("v",))
    info = read_dataset(output)
    assert (info.format, info.fields["features"]) == (2, {"dtype": "float32", "shape": ["N", 11]})
    for key, sample in samples(output).items():
        np.testing.assert_array_equal(sample.regions.features[:, :8], before[key].regions.features)
    again = run("again", small, columns=("v",), feature_dtype="int8")
    assert read_dataset(again).fields["features"] == {"dtype": "int8", "shape": ["N", 11]}
