"""Draws are a fixed function of what they are drawn for, and look random."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.train.examples.draws import Stream, below, bits, keys, uniforms

GOLDEN = [[17432227767021479258, 4439861475980524184], [11162705291630358765, 3405009084701260410]]


def some_keys(count: int, *, seed: int = 1, epoch: int = 0) -> np.ndarray:
    return keys(seed, np.full(count, epoch), np.arange(count))


def test_the_numbers_are_held_still() -> None:
    # A change here changes what every seed means: it belongs into the change log as a breaking one.
    key = keys(42, np.array([0, 3]), np.array([0, 123456789]))
    assert bits(key, Stream.WORD_MASK, 2).tolist() == GOLDEN


def test_seeds_epochs_samples_streams_and_counters_all_give_different_words() -> None:
    words = [
        bits(keys(seed, np.full(20, epoch), np.arange(20)), stream, 10).ravel()
        for seed in range(-2, 3)
        for epoch in range(4)
        for stream in Stream
    ]
    every = np.concatenate(words)
    assert len(np.unique(every)) == len(every)


@given(st.integers(1, 40), st.integers(1, 40))
def test_a_longer_draw_begins_with_the_shorter(first: int, second: int) -> None:
    short, long = sorted((first, second))
    assert (bits(some_keys(3), 5, long)[:, :short] == bits(some_keys(3), 5, short)).all()


def test_a_sample_draws_the_same_in_any_company() -> None:
    alone = uniforms(keys(9, np.array([2]), np.array([77])), Stream.SWAP, 4)
    among = uniforms(keys(9, np.array([0, 2, 5]), np.array([1, 77, 3])), Stream.SWAP, 4)
    assert (among[1] == alone[0]).all()


def test_uniforms_are_spread_evenly() -> None:
    drawn = uniforms(some_keys(2000), Stream.WORD_MASK, 50)
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = np.histogram(drawn, bins=100, range=(0, 1))[0]
    expected = drawn.size / 100
    assert ((counts - expected) ** 2 / expected).sum() < 160  # 99 degrees of freedom: exceeded by chance once in 10 000


@pytest.mark.parametrize(("left", "right"), [(Stream.WORD_MASK, Stream.WORD_ACTION), (Stream.SWAP, Stream.CAPTION)])
def test_streams_do_not_follow_one_another(left: Stream, right: Stream) -> None:
    key = some_keys(20000)
    assert abs(np.corrcoef(uniforms(key, left, 1)[:, 0], uniforms(key, right, 1)[:, 0])[0, 1]) < 0.03


def test_neighbouring_counters_samples_and_epochs_do_not_follow_one_another() -> None:
    drawn = uniforms(some_keys(20000), Stream.WORD_MASK, 2)
    other_epoch = uniforms(some_keys(20000, epoch=1), Stream.WORD_MASK, 1)
    assert abs(np.corrcoef(drawn[:, 0], drawn[:, 1])[0, 1]) < 0.03
    assert abs(np.corrcoef(drawn[1:, 0], drawn[:-1, 0])[0, 1]) < 0.03
    assert abs(np.corrcoef(drawn[:, 0], other_epoch[:, 0])[0, 1]) < 0.03


@pytest.mark.parametrize("bound", [1, 2, 7, 30522])
def test_below_reaches_every_value_evenly(bound: int) -> None:
    drawn = below(bits(some_keys(4000), Stream.WORD_RANDOM, 50), bound).ravel()
    assert drawn.dtype == np.int64
    assert drawn.min() >= 0
    assert drawn.max() < bound
    groups = np.bincount(drawn * min(bound, 20) // bound)
    expected = np.bincount(np.arange(bound) * min(bound, 20) // bound) * drawn.size / bound
    assert ((groups - expected) ** 2 / expected).sum() < 60  # at most 19 degrees of freedom


def test_below_takes_a_bound_for_each() -> None:
    bound = np.arange(1, 101)
    assert (below(bits(some_keys(100), 0, 1)[:, 0], bound) < bound).all()
    assert (below(np.full(100, 2**64 - 1, dtype=np.uint64), bound) == bound - 1).all()


def test_epochs_and_samples_too_large_for_32_bits_are_told_apart() -> None:
    key = keys(0, np.array([0, 0, 2**32]), np.array([1, 1 + 2**32, 1]))
    assert len(set(key.tolist())) == 3
