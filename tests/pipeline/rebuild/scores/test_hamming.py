"""Near hashes: all pairs that a comparison of each with each finds, and no others."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vilbert.pipeline.rebuild.scores.hamming import MAX_DISTANCE, band_masks, near_groups, near_pairs, nearest


def some_hashes(seed: int, count: int, *, clusters: int, flips: int) -> NDArray[np.uint64]:
    """Return hashes around a few centres, of which some bits are flipped."""
    draw = np.random.default_rng(seed)
    centres = draw.integers(0, 2**64, clusters, np.uint64)
    hashes = centres[draw.integers(0, clusters, count)]
    for _ in range(flips):
        hashes = hashes ^ np.where(draw.random(count) < 0.7, np.uint64(1) << draw.integers(0, 64, count, np.uint64), 0)
    return hashes.astype(np.uint64)


def all_distances(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> NDArray[np.uint8]:
    distances: NDArray[np.uint8] = np.bitwise_count(first[:, None] ^ second[None, :])
    return distances


@given(seed=st.integers(0, 1 << 30), distance=st.integers(0, MAX_DISTANCE), flips=st.integers(0, 12))
def test_pairs_groups_and_nearest_are_those_of_all_comparisons(seed: int, distance: int, flips: int) -> None:
    first = some_hashes(seed, 60, clusters=9, flips=flips)
    second = some_hashes(seed, 50, clusters=9, flips=flips)[::-1].copy()
    near = all_distances(first, second) <= distance
    found = {
        pair
        for some in near_pairs(first, second, distance)
        for pair in zip(*map(np.ndarray.tolist, some[:2]), strict=True)
    }
    assert found == set(zip(*map(np.ndarray.tolist, np.nonzero(near)), strict=True))
    indices, bits = nearest(first, second, distance)
    assert ((indices >= 0) == near.any(axis=1)).all()
    rows = np.flatnonzero(indices >= 0)
    assert (bits[rows] == all_distances(first, second).min(axis=1)[rows]).all()
    assert (all_distances(first, second)[rows, indices[rows]] == bits[rows]).all()
    within = all_distances(first, first) <= distance
    reached = within
    for _ in range(6):  # 2^6 steps
        reached = reached @ reached
    assert near_groups(first, distance).tolist() == reached.argmax(axis=1).tolist()


@pytest.mark.parametrize("distance", range(MAX_DISTANCE + 1))
def test_every_choice_of_flipped_bits_leaves_a_table_untouched(distance: int) -> None:
    masks = band_masks(distance)
    draw = np.random.default_rng(distance)
    for _ in range(200):
        flipped = sum(1 << int(bit) for bit in draw.choice(64, distance, replace=False))
        assert any(int(mask) & flipped == 0 for mask in masks)


def test_many_equal_hashes_take_no_square_of_their_number() -> None:
    hashes = np.concatenate([np.zeros(200_000, np.uint64), np.arange(1, 5, dtype=np.uint64) << np.uint64(50)])
    groups = near_groups(hashes, 0)
    assert set(groups[:200_000].tolist()) == {0}
    assert groups[200_000:].tolist() == list(range(200_000, 200_004))


def test_a_chain_is_one_group() -> None:
    chain = np.array([(1 << (4 * step)) - 1 for step in range(17)][::-1], np.uint64)
    assert set(near_groups(chain, 4).tolist()) == {0}
    assert near_groups(chain, 3).tolist() == list(range(17))


def test_other_distances_are_refused() -> None:
    with pytest.raises(ValueError, match="distance 11"):
        list(near_pairs(np.zeros(1, np.uint64), np.zeros(1, np.uint64), 11))
