"""The order of training is a pure function: each sample once an epoch, whoever asks for which part of it, and when."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vilbert.pipeline.train.data import order as order_module
from vilbert.pipeline.train.data.mixing import derive_key, mix64, permutation
from vilbert.pipeline.train.data.order import Order, Places, cut_windows

Sizes = list[list[int]]
some_sizes = st.lists(st.lists(st.integers(0, 9), max_size=6), min_size=1, max_size=3).filter(
    lambda sizes: sum(map(sum, sizes)) > 0
)
seeds = st.integers(0, 2**63)


def make(sizes: Sequence[Sequence[int]], *, seed: int = 0, window: int = 6, **options: object) -> Order:
    return Order([np.array(of, dtype=np.int64) for of in sizes], seed=seed, window=window, **options)  # type: ignore[arg-type]


def positions(start: int, stop: int) -> NDArray[np.int64]:
    return np.arange(start, stop, dtype=np.int64)


def as_rows(places: Places) -> list[tuple[int, ...]]:
    return list(zip(*(column.tolist() for column in places), strict=True))


@given(some_sizes, seeds, st.integers(1, 40), st.integers(0, 5), st.booleans())
def test_each_epoch_has_each_sample_once(sizes: Sizes, seed: int, window: int, epoch: int, shuffle: bool) -> None:
    order = make(sizes, seed=seed, window=window, shuffle=shuffle)
    total = sum(map(sum, sizes))
    assert order.epoch_size == total
    places = order.at(positions(epoch * total, (epoch + 1) * total))
    assert sorted(places.sample.tolist()) == list(range(total))
    assert set(places.epoch.tolist()) == {epoch}
    named = zip(places.dataset.tolist(), places.shard.tolist(), places.index.tolist(), strict=True)
    assert sorted(named) == [(d, s, i) for d, of in enumerate(sizes) for s, n in enumerate(of) for i in range(n)]


@given(
    some_sizes,
    st.lists(st.sampled_from([0.1, 0.5, 1.0, 1.7]), min_size=3, max_size=3),
    seeds,
    st.integers(1, 40),
    st.booleans(),
)
def test_no_window_touches_more_shards_than_it_says(
    sizes: Sizes, weights: list[float], seed: int, window: int, shuffle: bool
) -> None:
    order = make(sizes, seed=seed, window=window, weights=weights[: len(sizes)], shuffle=shuffle)
    touched: dict[int, set[tuple[int, int]]] = {}
    places = order.at(positions(0, 4 * order.epoch_size))
    named = zip(places.window_start.tolist(), places.dataset.tolist(), places.shard.tolist(), strict=True)
    for start, dataset, shard in named:
        touched.setdefault(start, set()).add((dataset, shard))
    assert max(map(len, touched.values())) <= order.most_shards() <= sum(map(len, sizes))


def test_equal_shards_are_touched_by_the_samples_of_two_windows_and_no_more() -> None:
    assert make([[10] * 1000], window=100).most_shards() == 19 + 1 + 2


@given(some_sizes, st.lists(st.sampled_from([0.5, 1.0, 1.7, 2.0]), min_size=3, max_size=3), seeds)
def test_samples_are_numbered_in_the_order_of_data_set_shard_and_index(
    sizes: Sizes, weights: list[float], seed: int
) -> None:
    order = make(sizes, seed=seed, weights=weights[: len(sizes)])
    numbers = {
        place: at
        for at, place in enumerate((d, s, i) for d, of in enumerate(sizes) for s, n in enumerate(of) for i in range(n))
    }
    for dataset, shard, index, sample, *_ in as_rows(order.at(positions(0, 2 * order.epoch_size))):
        assert numbers[dataset, shard, index] == sample


@given(some_sizes, seeds, st.integers(1, 30), st.data())
def test_any_subset_in_any_order_is_that_part_of_the_whole(
    sizes: Sizes, seed: int, window: int, data: st.DataObject
) -> None:
    order = make(sizes, seed=seed, window=window, weights=[1.7] * len(sizes))
    stop = 3 * order.epoch_size
    whole = as_rows(order.at(positions(0, stop)))
    asked = data.draw(st.lists(st.integers(0, stop - 1), max_size=30))
    fresh = make(sizes, seed=seed, window=window, weights=[1.7] * len(sizes))  # as after a restart
    assert as_rows(fresh.at(np.array(asked, dtype=np.int64))) == [whole[at] for at in asked]


@given(
    some_sizes,
    st.sampled_from([1, 2, 3, 4]),
    st.sampled_from([1, 2, 3]),
    st.integers(1, 3),
    st.lists(st.integers(1, 5), max_size=4),
)
def test_global_batches_do_not_know_of_ranks_accumulation_and_restarts(
    sizes: Sizes, world: int, accumulation: int, rows: int, runs: list[int]
) -> None:
    """Each rank takes its slice of [k * B, (k + 1) * B); a restart goes on at the step where the last run stopped."""
    batch = world * accumulation * rows
    steps = sum(runs) + 2
    expected = as_rows(make(sizes).at(positions(0, steps * batch)))
    seen: list[tuple[int, ...]] = []
    step = 0
    for length in (*runs, 2):
        ranks = [make(sizes) for _ in range(world)]
        for k in range(step, step + length):
            for rank, order in enumerate(ranks):
                start = k * batch + rank * rows * accumulation
                parts = [order.at(positions(at, at + rows)) for at in range(start, start + rows * accumulation, rows)]
                assert len(parts) == accumulation  # as many micro-batches on each rank, all of them full
                seen += [row for part in parts for row in as_rows(part)]
        step += length
    assert seen == expected


@given(some_sizes, st.lists(st.sampled_from([0.5, 1.0, 1.7, 2.0, 0.3]), min_size=3, max_size=3), seeds)
def test_an_epoch_takes_its_share_of_each_data_set_exactly(sizes: Sizes, weights: list[float], seed: int) -> None:
    order = make(sizes, seed=seed, weights=weights[: len(sizes)])
    expected = {
        dataset: max(1, round(weight * sum(of)))
        for dataset, (of, weight) in enumerate(zip(sizes, weights, strict=False))
        if sum(of)
    }
    assert order.epoch_size == sum(expected.values())
    for epoch in range(3):
        taken = order.at(positions(epoch * order.epoch_size, (epoch + 1) * order.epoch_size))
        assert Counter(taken.dataset.tolist()) == expected


@given(some_sizes, st.lists(st.sampled_from([0.5, 1.0, 1.7, 2.0, 0.3]), min_size=3, max_size=3), st.integers(1, 7))
def test_no_sample_comes_twice_more_than_another_of_its_data_set(
    sizes: Sizes, weights: list[float], epochs: int
) -> None:
    order = make(sizes, weights=weights[: len(sizes)])
    rows = as_rows(order.at(positions(0, epochs * order.epoch_size)))
    counts: dict[int, Counter[int]] = {dataset: Counter() for dataset in range(len(sizes))}
    for dataset, _, _, sample, number, *_ in sorted(rows, key=lambda row: row[4]):
        assert counts[dataset][sample] == number  # the pass says how often the sample came before
        counts[dataset][sample] += 1
    for dataset, of in enumerate(sizes):
        total, taken = sum(of), sum(counts[dataset].values())
        if total:
            often = sorted(Counter(counts[dataset].values()).items())
            more = taken % total
            expected = [(taken // total, total - more), (taken // total + 1, more)]
            assert often == [(times, samples) for times, samples in expected if samples and times]


def test_half_a_weight_takes_the_other_half_next_time() -> None:
    order = make([[5, 7, 8]], weights=[0.5])
    halves = [set(order.at(positions(10 * epoch, 10 * epoch + 10)).sample.tolist()) for epoch in range(4)]
    assert [len(half) for half in halves] == [10] * 4
    assert halves[0] | halves[1] == halves[2] | halves[3] == set(range(20))
    assert halves[0] != halves[2]


@given(some_sizes, seeds, st.integers(1, 30))
def test_each_position_lies_in_its_window_and_windows_tile_the_epoch(sizes: Sizes, seed: int, window: int) -> None:
    order = make(sizes, seed=seed, window=window)
    stop = 2 * order.epoch_size
    places = order.at(positions(0, stop))
    assert (places.window_start <= positions(0, stop)).all()
    assert (positions(0, stop) < places.window_stop).all()
    bounds = sorted(set(zip(places.window_start.tolist(), places.window_stop.tolist(), strict=True)))
    assert [start for start, _ in bounds] == [0, *(end for _, end in bounds[:-1])]
    assert bounds[-1][1] == stop
    assert all(end - start >= min(window, order.epoch_size) for start, end in bounds)


@given(some_sizes, seeds, st.integers(1, 20))
def test_a_shard_of_weight_one_stays_inside_of_one_window(sizes: Sizes, seed: int, window: int) -> None:
    order = make(sizes, seed=seed, window=window)
    places = order.at(positions(0, order.epoch_size))
    windows: dict[tuple[int, int], set[int]] = {}
    for dataset, shard, _, _, _, start, _ in as_rows(places):
        windows.setdefault((dataset, shard), set()).add(start)
    assert all(len(found) == 1 for found in windows.values())


def test_samples_of_a_window_are_mixed() -> None:
    order = make([[100] * 8], window=400)
    places = order.at(positions(0, 800))
    for start in (0, 400):
        inside = slice(start, start + 400)
        assert len(set(places.shard[inside].tolist())) == 4
        # Neighbours are of one shard as often as chance has it, 1 in 4, and seldom in their natural order.
        assert 0.15 < (np.diff(places.shard[inside]) == 0).mean() < 0.35
        assert (np.diff(places.sample[inside]) == 1).mean() < 0.05


def test_seeds_and_epochs_differ() -> None:
    listings = [
        tuple(make([[10, 10, 10]], seed=seed).at(positions(30 * epoch, 30 * epoch + 30)).sample.tolist())
        for seed in (0, 1, 2**40, -1)
        for epoch in range(3)
    ]
    assert len(set(listings)) == len(listings)


def test_without_shuffling_the_order_is_that_of_the_files() -> None:
    order = make([[3, 0, 2], [4]], shuffle=False)
    assert order.at(positions(0, 18)).sample.tolist() == [*range(9)] * 2


@pytest.mark.parametrize(
    ("sizes", "options", "message"),
    [
        ([[1]], {"weights": [1.0, 1.0]}, "for each of the 1 data sets"),
        ([[1]], {"weights": [0.0]}, "positive number"),
        ([[1]], {"weights": [float("nan")]}, "positive number"),
        ([[1]], {"window": 0}, "at least 1 sample"),
        ([[0, 0], []], {}, "no sample"),
    ],
)
def test_what_makes_no_order_is_refused(sizes: Sizes, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(sizes, **{"window": 6, **options})  # type: ignore[arg-type]


def test_a_position_before_the_first_is_refused() -> None:
    with pytest.raises(ValueError, match="position -1"):
        make([[3]]).at(np.array([0, -1]))


@pytest.mark.parametrize(
    ("sizes", "window", "expected"),
    [([4], 10, [0, 1]), ([4, 4, 4], 8, [0, 3]), ([4, 4, 4, 4], 8, [0, 2, 4]), ([9, 1, 9], 5, [0, 1, 3])],
)
def test_windows_are_cut_at_pieces_and_a_short_rest_joins_the_last(
    sizes: list[int], window: int, expected: list[int]
) -> None:
    assert cut_windows(np.cumsum(sizes), window).tolist() == expected


def work_of_a_batch(samples: int, shard: int) -> tuple[int, int]:
    """Return how many elements are permuted for 512 positions of an epoch already begun, and the order's bytes."""
    permuted = 0

    def counted(count: int, key: int) -> NDArray[np.int64]:
        nonlocal permuted
        permuted += count
        return permutation(count, key)

    sizes = [np.full(samples // shard, shard)]
    tracemalloc.start()
    order = Order(sizes, seed=1)
    order.at(positions(0, 512))
    held = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    with mock.patch.object(order_module, "permutation", counted):
        order.at(positions(9000, 9512))  # in a window not seen before
    return permuted, held


def test_a_batch_of_ten_million_samples_costs_what_one_of_some_thousand_does() -> None:
    small, _ = work_of_a_batch(27_000, 1000)
    large, held = work_of_a_batch(10_000_000, 1000)
    assert large == small == 9000  # one window of nine shards
    assert held < 4_000_000


def test_the_first_batch_of_an_epoch_costs_its_shards_not_its_samples() -> None:
    tracemalloc.start()
    order = Order([np.full(10_000, 1000)], seed=1)
    order.at(positions(0, 512))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert order.epoch_size == 10_000_000
    assert peak < 8_000_000  # one bit a sample would be 1.25 MB, one int64 80 MB


def test_what_is_kept_between_calls_is_bounded() -> None:
    order = Order([np.full(40, 1000)], seed=1, window=1000)
    order.at(positions(0, 200_000))
    assert len(order._windows) <= 4
    assert len(order._epochs) <= 2


def test_the_mixer_is_that_of_splitmix64() -> None:
    """The first outputs of SplitMix64 for seed 0, as Vigna's splitmix64.c prints them."""
    steps = np.arange(1, 4, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    assert [hex(word) for word in mix64(steps).tolist()] == [
        "0xe220a8397b1dcdaf",
        "0x6e789e6aa1b965f4",
        "0x6c45d188009454f",
    ]


def test_the_mixer_leaves_its_input_as_it_is() -> None:
    words = np.arange(5, dtype=np.uint64)
    mix64(words)
    assert words.tolist() == [0, 1, 2, 3, 4]


def test_keys_tell_sequences_apart() -> None:
    sequences = [(), (0,), (0, 0), (1, 0), (0, 1), (1,), (-1,), (2**64 - 2,)]
    assert len({derive_key(*words) for words in sequences}) == len(sequences)


@given(st.integers(0, 300), st.integers(0, 2**64 - 1))
def test_permutations_are_permutations(count: int, key: int) -> None:
    assert sorted(permutation(count, key).tolist()) == list(range(count))


def test_permutations_are_fair() -> None:
    """Each number comes at each place equally often: chi-squared of 64 cells, 49 degrees of freedom."""
    rounds, count = 4000, 8
    places = np.zeros((count, count))
    for key in range(rounds):
        places[np.arange(count), permutation(count, derive_key(key))] += 1
    expected = rounds / count
    assert ((places - expected) ** 2 / expected).sum() < 100


def test_the_order_is_fixed_for_ever() -> None:
    """A changed order changes every run: old checkpoints would go on with samples that they have seen."""
    order = Order([np.array([3, 0, 5]), np.array([4, 4])], seed=7, weights=[1.0, 0.5], window=6)
    assert order.at(positions(0, 24)).sample.tolist() == GOLDEN_SAMPLES
    large = Order([np.array([700, 300, 501]), np.full(9, 111)], seed=123, weights=[1.7, 0.5], window=500)
    content = np.stack(large.at(positions(0, 10_000))).astype("<i8").tobytes()
    assert hashlib.sha256(content).hexdigest() == GOLDEN_DIGEST


GOLDEN_SAMPLES = [3, 6, 2, 4, 13, 14, 5, 7, 15, 12, 1, 0, 4, 7, 10, 3, 0, 8, 6, 5, 2, 9, 1, 11]
GOLDEN_DIGEST = "d0c0735ed6facae47979d2b140548ae9c7b6a3f80c4db07456f23bd4dfa790c0"
