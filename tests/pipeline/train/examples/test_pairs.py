"""Partners come from the same window, each other position as likely as the next."""

from __future__ import annotations

from typing import Any

import numpy as np

from vilbert.pipeline.train.data.order import Order, Places
from vilbert.pipeline.train.examples.draws import keys
from vilbert.pipeline.train.examples.pairs import choose_captions, choose_images


class Numbered:
    """Every sample has its own number for a caption."""

    def captions(self, places: Places) -> list[tuple[str, ...]]:
        return [(str(number),) for number in places.sample.tolist()]


def test_wrong_captions_come_evenly_from_the_other_positions_of_the_window() -> None:
    order = Order([np.array([10, 10])], seed=0, window=10)
    own = order.at(np.arange(10))
    counts: np.ndarray = np.zeros((10, 10))
    rank = {number: place for place, number in enumerate(own.sample.tolist())}
    corpus: Any = Numbered()
    for seed in range(400):
        chosen, label = choose_captions(
            corpus, order, np.arange(10), own, keys(seed, own.epoch, own.sample), corpus.captions(own), swap=1.0
        )
        assert (label == 1).all()
        for row, text in enumerate(chosen):
            counts[row, rank[int(text)]] += 1
    assert (np.diag(counts) == 0).all()
    expected = 400 / 9
    others = counts[~np.eye(10, dtype=bool)]
    assert (
        (others - expected) ** 2 / expected
    ).sum() < 140  # 80 degrees of freedom: less than once in 10 000 by chance


def test_a_blind_image_is_another_one_also_where_images_come_more_than_once() -> None:
    order = Order([np.array([3])], seed=0, weights=(4.0,), window=12)
    own = order.at(np.arange(12))
    for seed in range(50):
        shown, found = choose_images(order, np.arange(12), own, keys(seed, own.epoch, own.sample))
        assert (shown.sample[found] != own.sample[found]).all()
        assert found.mean() > 0.9


def test_there_is_no_other_image_in_a_window_of_one() -> None:
    order = Order([np.array([1])], seed=0, window=1)
    own = order.at(np.arange(4))
    _, found = choose_images(order, np.arange(4), own, keys(0, own.epoch, own.sample))
    assert not found.any()
