"""Annotations meet features: every item whose image has some, once, in the order of the shards."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.join import Images, Joined, join
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.order import Order


class Item(NamedTuple):
    images: tuple[str, ...]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Images:
    folder = tmp_path_factory.mktemp("join")
    make_dataset(folder / "a", samples=11, shard_size=4, image_id=lambda row: f"a{row}", failed=(5,))
    make_dataset(folder / "b", samples=6, shard_size=5, image_id=lambda row: f"b{row}", seed=1)
    return Images(Corpus.open([str(folder / "a"), str(folder / "b")], split=None))


there = [f"a{row}" for row in range(11) if row != 5] + [f"b{row}" for row in range(6)]
names = st.sampled_from([*there, "a5", "nowhere"])


@given(
    items=st.lists(st.lists(names, min_size=1, max_size=2).map(lambda each: Item(tuple(each))), min_size=1, max_size=30)
)
def test_every_item_with_features_is_read_once_an_epoch_where_its_image_lies(images: Images, items: list[Item]) -> None:
    found = join(items, lambda item: item.images, images, what="items", most_missing=1.0)
    with_features = [number for number, item in enumerate(items) if set(item.images) <= set(there)]
    assert sorted(found.kept.tolist()) == with_features
    assert found.missing == len(items) - len(with_features)
    places = [images.number[items[number].images[0]] for number in found.kept]
    assert places == sorted(places)
    assert [len(part) for part in found.shard_sizes] == [len(part) for part in images.corpus.shard_sizes]
    if not with_features:
        return
    order = Order(found.shard_sizes, seed=4)
    at = order.at(np.arange(order.epoch_size))
    assert sorted(found.kept[at.sample].tolist()) == with_features
    natural = Order(images.corpus.shard_sizes, seed=0, shuffle=False).at(np.array(places))
    own = order.at(np.arange(order.epoch_size))
    shards = {int(s): (int(d), int(h)) for s, d, h in zip(own.sample, own.dataset, own.shard, strict=True)}
    for sample, (dataset, shard) in enumerate(zip(natural.dataset.tolist(), natural.shard.tolist(), strict=True)):
        assert shards[sample] == (dataset, shard)


def test_too_many_without_features_are_refused_by_name(images: Images) -> None:
    items = [Item(("a1",)), Item(("nowhere",))]
    with pytest.raises(RefusedError, match=r"captions, val: 1 of 2 .* \(nowhere"):
        join(items, lambda item: item.images, images, what="captions, val", most_missing=0.4)
    with pytest.raises(RefusedError, match="this split is empty"):
        join([], lambda item: item.images, images, what="captions, val", most_missing=1.0)


def test_images_without_given_boxes_are_missing_too(
    images: Images, tmp_path: Path, make_dataset: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    make_dataset(tmp_path / "given", samples=3, shard_size=3, image_id=lambda row: f"a{row}")
    given = Images(Corpus.open([str(tmp_path / "given")], split=None))
    items = [Item(("a1",)), Item(("a7",)), Item(("nowhere",)), Item(("a0", "b2")), Item(("a2", "a0"))]

    def found(most_missing: float) -> Joined:
        return join(items, lambda item: item.images, images, what="vcr", most_missing=most_missing, given=given)

    joined = found(0.6)
    assert sorted(joined.kept.tolist()) == [0, 4]
    assert joined.missing == 3
    assert "1 of 5 are about images without features (nowhere, ...)" in caplog.text
    assert "2 of 5 are about images without regions in --given-data (a7, b2, ...)" in caplog.text
    with pytest.raises(RefusedError, match=r"2 of 5 .* --given-data .*more than --max-missing-fraction 0.5"):
        found(0.5)


@pytest.mark.parametrize("name", ["dev-850-0-img0", "lsmdc/x@0"])
def test_names_that_the_manifest_put_folders_before_are_told(
    name: str, tmp_path: Path, make_dataset: Callable[..., Path]
) -> None:
    make_dataset(tmp_path / "a", samples=1, shard_size=3, image_id=lambda row: f"train/12/{name}")
    nested = Images(Corpus.open([str(tmp_path / "a")], split=None))
    with pytest.raises(RefusedError, match=f"{name} is train/12/{name} there: .* `vilbert manifest images/train/"):
        join([Item((name,))], lambda item: item.images, nested, what="nlvr2, dev", most_missing=0)
    with pytest.raises(RefusedError) as caught:
        join([Item(("nowhere",))], lambda item: item.images, nested, what="nlvr2, dev", most_missing=0)
    assert "there:" not in str(caught.value)


def test_a_blind_model_sees_another_image_and_always_the_same(images: Images) -> None:
    chosen = {name: images.other(name, 3) for name in there}
    assert all(name != other for name, other in chosen.items())
    assert len(set(chosen.values())) > len(there) // 3
    assert chosen == {name: images.other(name, 3) for name in there}
    assert chosen != {name: images.other(name, 4) for name in there}


def test_a_blind_model_sees_an_image_that_has_given_boxes(
    images: Images, tmp_path: Path, make_dataset: Callable[..., Path]
) -> None:
    make_dataset(tmp_path / "given", samples=3, shard_size=3, image_id=lambda row: f"a{3 * row}")
    given = Images(Corpus.open([str(tmp_path / "given")], split=None))
    both = Images(images.corpus, also_in=given)
    for seed in range(9):
        chosen = {name: both.other(name, seed) for name in there}
        assert set(chosen.values()) <= {"a0", "a3", "a6"}
        assert all(name != other for name, other in chosen.items())


def test_images_are_read_by_name(images: Images) -> None:
    found = images.read(["b2", "a5", "a0"])
    assert [None if example is None else example.image_id for example in found] == ["b2", None, "a0"]
    assert images.region_counts(["b2", "a5"]) == [len(found[0].boxes), 0]


def test_an_image_that_is_there_twice_is_refused(tmp_path: Path, make_dataset: Callable[..., Path]) -> None:
    for name in ("a", "b"):
        make_dataset(tmp_path / name, samples=2, shard_size=2)
    with pytest.raises(RefusedError, match="twice"):
        Images(Corpus.open([str(tmp_path / "a"), str(tmp_path / "b")], split=None))
