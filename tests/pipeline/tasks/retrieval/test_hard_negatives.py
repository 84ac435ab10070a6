"""Nearest images against distances in plain float64, and the files they are kept in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shards.storage.store import open_shard
from vilbert.pipeline.tasks.retrieval import hard_negatives as mined
from vilbert.pipeline.tasks.retrieval.hard_negatives import hard_negatives, mean_features, nearest
from vilbert.pipeline.train.data.corpus import Corpus


def by_hand(means: NDArray[np.float32], k: int) -> list[list[int]]:
    """Return neighbours by exact squared distances, the lower number first among equal ones."""
    rows = means.astype(np.float64)
    found = []
    for number, row in enumerate(rows):
        order = np.argsort(np.square(rows - row).sum(-1), kind="stable").tolist()
        found.append([other for other in order if other != number][:k])
    return found


@given(
    count=st.integers(2, 40),
    dim=st.integers(1, 6),
    kinds=st.integers(1, 40),
    block=st.integers(1, 45),
    offset=st.sampled_from([0.0, 1000.0]),
    data=st.data(),
)
def test_neighbours_are_those_by_hand_equal_images_included(
    count: int, dim: int, kinds: int, block: int, offset: float, data: st.DataObject
) -> None:
    draw = np.random.default_rng(data.draw(st.integers(0, 1000)))
    different = (draw.standard_normal((kinds, dim)) + offset).astype(np.float32)
    means = different[draw.integers(0, kinds, count)]
    k = data.draw(st.integers(1, count - 1))
    found = nearest(means, k, block=block)
    assert found.dtype == np.int32
    assert found.tolist() == by_hand(means, k)


def test_real_size_features_in_several_blocks_and_threads() -> None:
    draw = np.random.default_rng(0)
    means = np.maximum(draw.standard_normal((120, 2048)), 0).astype(np.float32)
    means[50:90] = means[7]  # more equal ones than neighbours
    expected = by_hand(means[:, :64], 5), by_hand(means, 20)
    assert nearest(means[:, :64], 5, block=7).tolist() == expected[0]
    threads = torch.get_num_threads()
    try:
        for torch_threads in (1, 2):
            torch.set_num_threads(torch_threads)
            assert nearest(means, 20, block=50).tolist() == expected[1]
    finally:
        torch.set_num_threads(threads)


def test_what_has_no_neighbours_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 1 to 2 for 3 images"):
        nearest(np.zeros((3, 2), np.float32), 3)
    with pytest.raises(ValueError, match="NaN"):
        nearest(np.array([[0.0], [np.nan], [1.0]], np.float32), 1)


def test_means_of_regions_in_natural_order(tmp_path: Path, make_dataset: Callable[..., Path]) -> None:
    folder = make_dataset(tmp_path / "a", samples=7, shard_size=3, regions=lambda row: row % 4)
    ids, means = mean_features(Corpus.open([str(folder)], split=None))
    assert ids == [f"photo.{row:04}" for row in range(7)]
    for row, mean in enumerate(means):
        with open_shard(folder / "shards" / f"{row // 3:06}.tar") as reader:
            features = reader[row % 3].regions.features.astype(np.float64)
        np.testing.assert_allclose(mean, features.mean(0) if len(features) else np.zeros(8), rtol=1e-6, atol=1e-7)
    assert mean_features(Corpus.open([str(folder)], split=None), {"photo.0005", "photo.0002"})[0] == [ids[2], ids[5]]
    with pytest.raises(RefusedError, match="none of the requested images"):
        mean_features(Corpus.open([str(folder)], split=None), {"other"})


def test_they_are_kept_for_the_same_data_alone(
    tmp_path: Path, make_dataset: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpora = [
        Corpus.open([str(make_dataset(tmp_path / str(seed), samples=6, shard_size=3, seed=seed))], split=None)
        for seed in (0, 1)
    ]
    first = hard_negatives(corpora[0], tmp_path / "run", k=3)
    assert first.nearest.tolist() == by_hand(mean_features(corpora[0])[1], 3)
    other = hard_negatives(corpora[1], tmp_path / "run", k=3)
    few = hard_negatives(corpora[0], tmp_path / "run", only=first.image_ids[:3])
    assert few.nearest.shape == (3, 2)
    (damaged,) = [path for path in (tmp_path / "run").glob("*.npy") if np.array_equal(np.load(path), other.nearest)]
    damaged.write_bytes(damaged.read_bytes()[:-1])
    calls: list[int] = []

    def counted(means: NDArray[np.float32], k: int) -> NDArray[np.int32]:
        calls.append(k)
        return nearest(means, k)

    monkeypatch.setattr(mined, "nearest", counted)
    again = hard_negatives(corpora[0], tmp_path / "run", k=3)
    assert (again.image_ids, again.nearest.tolist()) == (first.image_ids, first.nearest.tolist())
    assert calls == []
    assert hard_negatives(corpora[1], tmp_path / "run", k=3).nearest.tolist() == other.nearest.tolist()
    assert calls == [3]
