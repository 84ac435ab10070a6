"""`--features`: a region's features are those of the data set, of a column at its boxes, or several concatenated."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vilbert.pipeline.errors import CorruptShardError, RefusedError
from vilbert.pipeline.shards.columns.add import add_column
from vilbert.pipeline.shards.columns.values_file import open_values
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.open_dataset import open_dataset
from vilbert.pipeline.shards.storage.verified import VerifiedFiles
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.pretraining.data import open_data
from vilbert.pipeline.train.pretraining.settings import PretrainSettings

MakeDataset = Callable[..., Path]


def add(folder: Path, name: str, values: dict[str, Any], kind: pa.DataType) -> None:
    file = folder.parent / f"{name}.parquet"
    table = {"image_id": list(values), "value": pa.array(list(values.values()), kind)}
    pq.write_table(pa.table(table), file)
    opened = open_values(file, ids=None, id_column="image_id", value_column=None)
    add_column(LocalFolder(folder), name, opened, missing="error")


@pytest.fixture(params=["tar", "lmdb"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, make_dataset: MakeDataset) -> Path:
    """A data set with the column `dino`, three channels per region, and `score`, a number per image."""
    made = make_dataset(
        tmp_path / "a", samples=10, shard_size=4, storage=request.param, regions=lambda row: 1 + row % 4
    )
    with open_dataset(made) as samples:
        boxes = {sample.meta["image_id"]: sample.regions.boxes for sample in samples}
    dino = {image_id: (found[:, :3] / 7).tolist() for image_id, found in boxes.items()}
    add(made, "dino", dino, pa.list_(pa.list_(pa.float32())))
    add(made, "score", dict.fromkeys(boxes, 0.5), pa.float32())
    return made


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


def test_what_a_run_knows_its_data_by_names_the_column(folder: Path) -> None:
    base = Corpus.open(folder, split=None)
    with_column = Corpus.open(folder, split=None, features=("base", "dino"))
    assert "features" not in base.fingerprints[0]
    assert with_column.fingerprints[0]["features"][0] == "base"
    assert with_column.extractors[0]["features"] == [f"base [{base.feature_dim}]", "dino [3]"]


@pytest.mark.parametrize(
    ("features", "said"),
    [(("clip",), "base, dino, score"), (("score",), "vector per region"), (("dino", "dino"), "once"), ((), "once")],
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
