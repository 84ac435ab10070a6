"""Columns in training: features of a region, several concatenated, and class targets; on a disk and behind a URL."""

from __future__ import annotations

import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from numpy.typing import NDArray

from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import CorruptShardError, RefusedError
from vilbert.pipeline.shards.columns.add import add_column
from vilbert.pipeline.shards.columns.shard import ColumnShard, ColumnWriter, encode_value
from vilbert.pipeline.shards.columns.values_file import open_values
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.open_dataset import open_dataset
from vilbert.pipeline.shards.storage.verified import VerifiedFiles
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.data.shard_cache import _in_use
from vilbert.pipeline.train.examples.image_rows import lay_out
from vilbert.pipeline.train.examples.inputs import dense_labels
from vilbert.pipeline.train.examples.item_settings import ItemSettings
from vilbert.pipeline.train.examples.masking import RegionDraws
from vilbert.pipeline.train.pretraining.data import open_data
from vilbert.pipeline.train.pretraining.settings import PretrainSettings

from ...shards.columns.made import make_region_column
from ..tiny_runs import MODEL, journal, pretrain_arguments

MakeDataset = Callable[..., Path]


def add(folder: Path, name: str, values: dict[str, Any], kind: pa.DataType) -> None:
    file = folder.parent / f"{name}.parquet"
    table = {"image_id": list(values), "value": pa.array(list(values.values()), kind)}
    pq.write_table(pa.table(table), file)
    opened = open_values(file, ids=None, id_column="image_id", value_column=None)
    add_column(LocalFolder(folder), name, opened, missing="error")


@pytest.fixture(scope="module", params=["tar", "lmdb"])
def written(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_dataset: MakeDataset
) -> Path:
    """A data set with the columns `dino` (three channels per region), `classes` (probabilities), `score` (numbers)."""
    made = make_dataset(
        tmp_path_factory.mktemp("columns") / "a",
        samples=10,
        shard_size=4,
        storage=request.param,
        regions=lambda row: 1 + row % 4,
    )
    with open_dataset(made) as samples:
        boxes = {sample.meta["image_id"]: sample.regions.boxes for sample in samples}
    dino = {image_id: (found[:, :3] / 7).tolist() for image_id, found in boxes.items()}
    add(made, "dino", dino, pa.list_(pa.list_(pa.float32())))
    classes = {image_id: probabilities(found).tolist() for image_id, found in boxes.items()}
    add(made, "classes", classes, pa.list_(pa.list_(pa.float32())))
    add(made, "score", dict.fromkeys(boxes, 0.5), pa.float32())
    return made


@pytest.fixture
def folder(written: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(written, tmp_path / "a"))


def probabilities(boxes: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a distribution over five classes for each box [N, 4]."""
    drawn = np.concatenate([boxes, np.ones((len(boxes), 1), np.float32)], axis=1) + 1
    distribution: NDArray[np.float32] = drawn / drawn.sum(axis=1, keepdims=True)
    return distribution


OTHER_CLASSES = ("background", "cup", "car", "cat")


@pytest.fixture
def with_regions(folder: Path, tmp_path: Path, make_dataset: MakeDataset) -> Path:
    """The data set with a column `own` of other boxes, features of five channels, and two of three other classes."""
    other = make_dataset(
        tmp_path / "other", samples=10, shard_size=4, regions=lambda row: 2 + row % 3, seed=5, feature_dim=5,
        top_classes=2, class_names=OTHER_CLASSES, captions=lambda row: (), detector="another",
    )  # fmt: skip
    make_region_column(folder, other, "own")
    return folder


@pytest.fixture
def with_labels(folder: Path, tmp_path: Path, make_dataset: MakeDataset) -> Path:
    """The data set with a column `labels` of regions at its own boxes."""
    other = make_dataset(
        tmp_path / "other", samples=10, shard_size=4, regions=lambda row: 1 + row % 4, feature_dim=5, top_classes=2,
        class_names=OTHER_CLASSES, detector="another",
    )  # fmt: skip
    make_region_column(folder, other, "labels", boxes="base")
    return folder


@pytest.fixture
def url(folder: Path) -> Iterator[str]:
    """The URL of a copy of the data set in fsspec's file system in memory."""
    memory = fsspec.filesystem("memory")
    for path in folder.rglob("*"):
        if path.is_file():
            memory.pipe_file(f"/columns-of/{path.relative_to(folder)}", path.read_bytes())
    yield "memory://columns-of"
    memory.rm("/columns-of", recursive=True)


def read_all(corpus: Corpus) -> list[Any]:
    order = Order(corpus.shard_sizes, seed=3, window=4)
    return corpus.read(order.at(np.arange(order.epoch_size)))


def test_a_column_alone_and_behind_the_features_of_the_data_set(folder: Path) -> None:
    alone = Corpus.open(folder, split=None, features=("dino",), verified=VerifiedFiles())
    joined = pickle.loads(pickle.dumps(Corpus.open(folder, split=None, features=("base", "dino"), open_shards=1)))
    base = Corpus.open(folder, split=None)
    assert (alone.feature_dim, joined.feature_dim) == (3, base.feature_dim + 3)
    for of_column, of_both, of_base in zip(read_all(alone), read_all(joined), read_all(base), strict=True):
        assert of_column.image_id == of_both.image_id == of_base.image_id
        assert np.array_equal(of_column.features, np.float32(of_base.boxes[:, :3] / 7))
        assert np.array_equal(of_both.features, np.concatenate([of_base.features, of_column.features], axis=1))
        assert np.array_equal(of_both.class_ids, of_base.class_ids)
    for corpus in (alone, joined, base):
        corpus.close()


@pytest.mark.parametrize("order", [1, -1])
def test_columns_of_images_with_one_number_of_regions(make_dataset: MakeDataset, tmp_path: Path, order: int) -> None:
    folder = make_dataset(tmp_path / "a", samples=7, shard_size=4, regions=lambda row: 3)
    with open_dataset(folder) as samples:
        boxes = {sample.meta["image_id"]: sample.regions.boxes for sample in samples}
    add(
        folder, "dino", {name: found[:, :3].tolist() for name, found in boxes.items()}, pa.list_(pa.list_(pa.float32()))
    )
    path = folder / "columns/dino/shards/000000.tar"
    with ColumnShard(path, name="dino", member="npy") as shard:
        values = [(key, encode_value(shard[key], "npy")) for key in shard.keys][::order]
    path.unlink()
    writer = ColumnWriter(path, name="dino", member="npy")  # in another order, keys find the values
    for key, content in values:
        writer.add(key, content)
    writer.finish()
    found = read_all(Corpus.open(folder, split=None, features=("dino", "base")))
    for example, base in zip(found, read_all(Corpus.open(folder, split=None)), strict=True):
        expected = np.concatenate([boxes[example.image_id][:, :3], base.features], axis=1)
        np.testing.assert_array_equal(example.features, expected, strict=True)


def test_what_a_run_knows_its_data_by_names_the_column(folder: Path) -> None:
    base = Corpus.open(folder, split=None)
    with_column = Corpus.open(folder, split=None, features=("base", "dino"))
    assert "features" not in base.fingerprints[0]
    assert with_column.fingerprints[0]["features"][0] == "base"
    assert with_column.extractors[0]["features"] == [f"base [{base.feature_dim}]", "dino [3]"]


@pytest.mark.parametrize(
    ("features", "said"),
    [
        (("clip",), "base, classes, dino, score"),
        (("score",), "vector per region"),
        (("dino", "dino"), "once"),
        ((), "once"),
    ],
)
def test_columns_that_cannot_be_features(folder: Path, features: tuple[str, ...], said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        Corpus.open(folder, split=None, features=features)


def test_a_column_of_an_older_state_is_refused(folder: Path) -> None:
    path = folder / "columns/dino/column.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base": "0" * 64}))
    with pytest.raises(RefusedError, match="older state"):
        Corpus.open(folder, split=None, features=("dino",))


@pytest.mark.parametrize("position", [3, 645])
def test_a_damaged_column_stops_or_skips_like_a_shard(folder: Path, position: int) -> None:
    path = folder / "columns/dino/shards/000001.tar"
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptShardError, match=r"000001\.tar"):
        read_all(Corpus.open(folder, split=None, features=("dino",), verified=VerifiedFiles()))
    skipping = Corpus.open(folder, split=None, features=("dino",), verified=VerifiedFiles(), on_corrupt="skip")
    assert sum(example is None for example in read_all(skipping)) == 4
    assert all(example is not None for example in read_all(Corpus.open(folder, split=None)))


def test_pretraining_reads_and_holds_out_what_features_names(folder: Path, tmp_path: Path) -> None:
    settings = PretrainSettings(
        data=(str(folder),), output=tmp_path / "run", split="all", eval_split="held-out", hold_out=0.3, batch_size=2,
        features=("dino", "base"),
    )  # fmt: skip
    data = open_data(settings)
    assert data.held_out is not None
    base = Corpus.open(folder, split=None).feature_dim
    assert (data.corpus.feature_dim, data.held_out.feature_dim) == (3 + base, 3 + base)
    for corpus in (data.corpus, data.held_out):
        for example in read_all(corpus):
            assert np.array_equal(example.features[:, :3], np.float32(example.boxes[:, :3] / 7))


def test_class_targets_are_the_probabilities_of_a_column(folder: Path) -> None:
    corpus = Corpus.open(folder, split=None, class_targets="classes", features=("classes", "base"))
    base = Corpus.open(folder, split=None)
    assert (corpus.top_classes, corpus.target_classes, base.target_classes) == (0, 5, base.top_classes)
    assert corpus.class_names == ("classes 0", "classes 1", "classes 2", "classes 3", "classes 4")
    for example, of_base in zip(read_all(corpus), read_all(base), strict=True):
        assert example.class_ids.shape == (len(example.boxes), 0)
        assert np.array_equal(example.class_probs, probabilities(of_base.boxes))
        assert np.array_equal(example.features[:, 5:], of_base.features)
    assert "class_targets" not in base.fingerprints[0]
    assert corpus.fingerprints[0]["class_targets"].startswith("classes ")


def test_the_model_sees_them_as_they_are(folder: Path) -> None:
    corpus = Corpus.open(folder, split=None, class_targets="classes")
    examples = read_all(corpus)
    rows = 2 + max(len(example.boxes) for example in examples)
    draws = RegionDraws(np.zeros((len(examples) + 1, rows)), np.zeros((len(examples) + 1, rows)))
    image = lay_out(corpus, [*examples, None], draws, ItemSettings(max_regions=3))
    batch = SimpleNamespace(
        class_ids=torch.from_numpy(image.class_ids),
        class_probs=torch.from_numpy(image.class_probs),
        region_mask=torch.from_numpy(image.region_mask),
    )
    labels = dense_labels(batch, "cpu", 5)  # type: ignore[arg-type]
    assert labels.shape == (len(examples) + 1, 3, 5)
    for row, example in enumerate(examples):
        count = min(3, len(example.boxes))
        torch.testing.assert_close(labels[row, :count], torch.tensor(example.class_probs[:3]), atol=1e-3, rtol=0)
        assert torch.allclose(labels[row, :count].sum(-1), torch.ones(count))
        assert not labels[row, count:].any()
    assert not labels[-1].any()


@pytest.mark.parametrize(
    ("name", "said"), [("clip", "no column clip; --class-targets takes: base"), ("score", "--class-targets needs fl")]
)
def test_columns_that_cannot_be_class_targets(folder: Path, name: str, said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        Corpus.open(folder, split=None, class_targets=name)


def test_values_that_are_no_probabilities_are_refused(folder: Path) -> None:
    with pytest.raises(RefusedError, match=r"dino/shards/000000\.tar, key row\d: --class-targets needs .* sum 1"):
        read_all(Corpus.open(folder, split=None, class_targets="dino", on_corrupt="skip"))


def test_class_targets_of_other_lengths_do_not_go_together(
    folder: Path, tmp_path: Path, make_dataset: MakeDataset
) -> None:
    other = make_dataset(tmp_path / "b", samples=3, shard_size=3, regions=1, seed=1)
    add(other, "classes", {f"photo.{row:04}": [[0.25, 0.75]] for row in range(3)}, pa.list_(pa.list_(pa.float32())))
    with pytest.raises(RefusedError, match="class_names"):
        Corpus.open([folder, other], split=None, class_targets="classes")


def test_a_column_with_boxes_of_its_own_replaces_the_regions(with_regions: Path) -> None:
    corpus = pickle.loads(pickle.dumps(Corpus.open(with_regions, split=None, features=("own",), open_shards=1)))
    assert (corpus.feature_dim, corpus.top_classes, corpus.class_names) == (5, 2, OTHER_CLASSES)
    assert corpus.extractors == ({"detector": "another"},)
    assert corpus.fingerprints[0]["features"][0].startswith("own ")
    base = Corpus.open(with_regions, split=None)
    with open_dataset(with_regions / "columns/own") as column:
        regions = {sample.meta["image_id"]: sample.regions for sample in column}
    for example, of_base in zip(read_all(corpus), read_all(base), strict=True):
        assert (example.image_id, example.captions) == (of_base.image_id, of_base.captions)
        assert len(example.captions) == 2
        expected = regions[example.image_id]
        for name in ("boxes", "features", "class_ids", "class_probs"):
            assert np.array_equal(getattr(example, name), getattr(expected, name)), name
    named = Corpus.open(with_regions, split=None, features=("own",), class_targets="own")
    assert named.fingerprints == corpus.fingerprints
    plain = Corpus.open(with_regions / "columns/own", split=None)
    assert plain.extractors == corpus.extractors  # a model of one takes the other


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"features": ("base", "own")}, "--features base own: column own has boxes of its own, .* that base describes"),
        ({"features": ("own", "dino")}, "--features own dino: .* that dino describes; give --features own alone"),
        ({"features": ("own",), "class_targets": "classes"}, "column own has boxes of its own, and column classes is"),
        ({"class_targets": "own"}, "column own has boxes of its own, and the data set has others; give --features own"),
    ],
)
def test_regions_of_different_boxes_do_not_go_together(with_regions: Path, wanted: Any, said: str) -> None:
    with pytest.raises(RefusedError, match=said):
        Corpus.open(with_regions, split=None, **wanted)


def test_labels_at_the_boxes_of_the_data_set_are_class_targets_and_features(with_labels: Path) -> None:
    corpus = Corpus.open(with_labels, split=None, features=("base", "labels", "dino"), class_targets="labels")
    base = Corpus.open(with_labels, split=None)
    assert (corpus.feature_dim, corpus.top_classes, corpus.target_classes) == (base.feature_dim + 5 + 3, 2, 2)
    assert corpus.class_names == OTHER_CLASSES
    with open_dataset(with_labels / "columns/labels") as column:
        regions = {sample.meta["image_id"]: sample.regions for sample in column}
    for example, of_base in zip(read_all(corpus), read_all(base), strict=True):
        expected = regions[example.image_id]
        assert np.array_equal(example.boxes, of_base.boxes)
        assert np.array_equal(example.features[:, base.feature_dim : -3], expected.features)
        assert np.array_equal(example.class_ids, expected.class_ids)
        assert np.array_equal(example.class_probs, expected.class_probs)
    assert corpus.fingerprints[0]["class_targets"].startswith("labels ")


@pytest.mark.parametrize("damage", ["class id", "channels", "missing"])
def test_damaged_regions_of_a_column_are_never_used(with_regions: Path, damage: str) -> None:
    """Not even where the record was made to fit: the sample itself is not what the column's dataset.json says."""
    path = with_regions / "columns/own/shards/000001.tar"
    content = path.read_bytes()
    if damage == "missing":
        path.unlink()
    elif damage == "channels":
        path.write_bytes(content.replace(b"(2, 5), }", b"(5, 2), }").replace(b"(3, 5), }", b"(5, 3), }"))
    else:
        with open_dataset(with_regions / "columns/own") as column:
            ids = column[4].regions.class_ids
        assert ids is not None
        assert content.count(ids.tobytes()) >= 1
        path.write_bytes(content.replace(ids.tobytes(), np.full_like(ids, 9).tobytes()))
    corpus = Corpus.open(with_regions, split=None, features=("own",))
    with pytest.raises(CorruptShardError, match=r"own/shards/000001\.tar.*drop the column"):
        read_all(corpus)


@pytest.mark.parametrize("written", ["tar"], indirect=True)
def test_images_without_regions_are_left_out_by_a_selection(
    folder: Path, tmp_path: Path, make_dataset: MakeDataset, capsys: pytest.CaptureFixture[str]
) -> None:
    other = make_dataset(tmp_path / "other", samples=10, shard_size=4, failed=(1, 6), captions=lambda row: ())
    make_region_column(folder, other, "own")
    with pytest.raises(RefusedError, match=r"no value for 2 of the samples.* --where \"has\('own'\)\" --output"):
        Corpus.open(folder, split=None, features=("own",))

    def selected(where: str, name: str) -> Path:
        assert main(["select", str(folder), "--where", where, "--output", str(tmp_path / name)]) == 0
        return tmp_path / name

    having = selected("has('own')", "having.parquet")
    corpus = Corpus.open(folder, split=None, features=("own",), selections=[having])
    found = read_all(corpus)
    assert sorted(example.image_id for example in found) == [
        f"photo.{row:04}" for row in range(10) if row not in (1, 6)
    ]
    every = selected("has('score')", "every.parquet")
    with pytest.raises(RefusedError, match=r"no value for the selected sample row1 \(shard 0\)"):
        Corpus.open(folder, split=None, features=("own",), selections=[every])
    assert main(["select", str(folder), "--where", "own == 1", "--output", str(tmp_path / "no.parquet")]) == 2
    assert "apart from has('own')" in capsys.readouterr().err


@pytest.mark.parametrize("written", ["tar"], indirect=True)
def test_regions_of_a_column_behind_a_url(with_regions: Path, url: str, tmp_path: Path) -> None:
    local = Corpus.open(with_regions, split=None, features=("own",))
    remote = Corpus.open([url], split=None, features=("own",), cache_dir=tmp_path / "cache", open_shards=1)
    for here, there in zip(read_all(local), read_all(remote), strict=True):
        assert (here.image_id, here.boxes.tobytes()) == (there.image_id, there.boxes.tobytes())
        assert here.features.tobytes() == there.features.tobytes()
    assert local.fingerprints[0]["features"] == remote.fingerprints[0]["features"]


@pytest.mark.parametrize("written", ["tar"], indirect=True)
def test_pretraining_on_regions_of_a_column_is_that_of_a_data_set_of_them(
    with_regions: Path, tmp_path: Path, make_dataset: MakeDataset
) -> None:
    """The same losses as with a data set that was extracted with these regions and the captions of the base."""
    plain = make_dataset(
        tmp_path / "plain", samples=10, shard_size=4, regions=lambda row: 2 + row % 3, seed=5, feature_dim=5,
        top_classes=2, class_names=OTHER_CLASSES, detector="another",
    )  # fmt: skip
    (tmp_path / "model.json").write_text(json.dumps(MODEL))
    sizes = {"steps": 2, "batch_size": 4, "eval_every": 2, "save_every": 2}
    losses = []
    for name, data, options in (("own", with_regions, ["--features", "own"]), ("plain", plain, [])):
        run = pretrain_arguments([data], tmp_path / f"run-{name}", tmp_path / "model.json", **sizes)
        assert main([*run, "--eval-split", "all", "--split", "all", *options]) == 0
        losses.append(journal(tmp_path / f"run-{name}"))
    assert losses[0] == losses[1]


def test_behind_a_url_columns_are_those_on_the_disk(folder: Path, url: str, tmp_path: Path) -> None:
    wanted: dict[str, Any] = {"split": None, "features": ("base", "dino"), "class_targets": "classes"}
    local = Corpus.open(folder, **wanted)
    log = VerifiedFiles(tmp_path / "log")
    remote = pickle.loads(
        pickle.dumps(Corpus.open([url], cache_dir=tmp_path / "cache", open_shards=1, verified=log, **wanted))
    )
    for here, there in zip(read_all(local), read_all(remote), strict=True):
        assert (here.image_id, here.features.tobytes()) == (there.image_id, there.features.tobytes())
        assert here.class_probs.tobytes() == there.class_probs.tobytes()
    assert local.fingerprints[0]["features"] == remote.fingerprints[0]["features"]
    remote.close()
    assert not [path for path in _in_use if path.is_relative_to(tmp_path)]


def test_the_cache_holds_columns_within_its_bytes(folder: Path, url: str, tmp_path: Path) -> None:
    wanted: dict[str, Any] = {"split": None, "features": ("base", "dino")}
    limit = sum(path.stat().st_size for path in folder.glob("**/000000.*") if path.suffix in (".tar", ".lmdb"))
    corpus = Corpus.open([url], cache_dir=tmp_path / "cache", cache_bytes=limit, **wanted)
    assert [it.image_id for it in read_all(corpus)] == [it.image_id for it in read_all(Corpus.open(folder, **wanted))]
    kept = [path for path in (tmp_path / "cache").glob("*/shards/*") if path.suffix in (".tar", ".lmdb")]
    assert 0 < sum(path.stat().st_size for path in kept) <= limit


def test_a_damaged_column_behind_a_url_is_never_used(folder: Path, url: str, tmp_path: Path) -> None:
    memory = fsspec.filesystem("memory")
    name = "/columns-of/columns/dino/shards/000001.tar"
    memory.pipe_file(name, memory.cat_file(name)[:-1] + b"!")
    opened = Corpus.open([url], split=None, features=("dino",), cache_dir=tmp_path / "cache")
    with pytest.raises(CorruptShardError, match=r"columns/dino/shards/000001\.tar gave \d+ bytes of SHA-256"):
        read_all(opened)
    skipping = Corpus.open([url], split=None, features=("dino",), cache_dir=tmp_path / "cache", on_corrupt="skip")
    assert sum(example is None for example in read_all(skipping)) == 4


def test_a_column_made_anew_behind_a_url_does_not_meet_its_old_shards(folder: Path, url: str, tmp_path: Path) -> None:
    def read() -> list[Any]:
        return read_all(Corpus.open([url], split=None, features=("dino",), cache_dir=tmp_path / "cache"))

    before = read()
    memory = fsspec.filesystem("memory")
    values = {example.image_id: (example.features + 1).tolist() for example in before}
    shutil.rmtree(folder / "columns/dino")
    add(folder, "dino", values, pa.list_(pa.list_(pa.float32())))
    for path in (folder / "columns/dino").rglob("*"):
        if path.is_file():
            memory.pipe_file(f"/columns-of/{path.relative_to(folder)}", path.read_bytes())
    for old, new in zip(before, read(), strict=True):
        assert np.array_equal(old.features + 1, new.features)


def test_a_column_that_is_not_behind_the_url_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="memory://columns-of: has no finished column clip"):
        Corpus.open([url], split=None, features=("clip",), cache_dir=tmp_path / "cache")


@pytest.mark.parametrize("written", ["tar"], indirect=True)
def test_pretraining_predicts_the_classes_of_a_column_and_is_resumed_with_it_alone(
    folder: Path, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "model.json").write_text(json.dumps(MODEL))
    sizes = {"steps": 2, "batch_size": 4, "eval_every": 2, "save_every": 1}
    run = [*pretrain_arguments([folder], tmp_path / "run", tmp_path / "model.json", **sizes), "--eval-split", "all"]
    run += ["--split", "all"]
    assert main([*run, "--class-targets", "classes"]) == 0
    config = json.loads((tmp_path / "run/final/config.json").read_text())
    assert (config["visual_target"], config["v_target_size"]) == (0, 5)
    counted = json.loads((tmp_path / "run/evaluation.json").read_text())["classes"]
    assert counted
    assert set(counted) <= {f"classes {number}" for number in range(5)}
    described = json.loads((tmp_path / "run/run.json").read_text())
    assert described["data"][0]["class_targets"] == described["eval_data"][0]["class_targets"]
    # The same data behind a URL are the same run; the class targets of the data set are another one.
    remote = [url if argument == str(folder) else argument for argument in run]
    assert main([*remote, "--class-targets", "classes"]) == 0
    assert main(run) == 2
    assert "class_targets" in capsys.readouterr().err


@pytest.mark.parametrize("written", ["tar"], indirect=True)
def test_class_targets_want_a_model_that_predicts_classes(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--visual-target nce does not predict classes"):
        PretrainSettings(data=(str(folder),), output=tmp_path, class_targets="classes", visual_target="nce")
    (tmp_path / "model.json").write_text(json.dumps({**MODEL, "visual_target": 1}))
    sizes = {"steps": 1, "batch_size": 4, "eval_every": 1, "save_every": 1}
    run = pretrain_arguments([folder], tmp_path / "run", tmp_path / "model.json", **sizes)
    assert main([*run, "--eval-split", "none", "--class-targets", "classes"]) == 2
