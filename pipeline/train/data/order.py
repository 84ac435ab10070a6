"""Which sample is at which position of the endless stream that training reads: a pure function.

The stream does not know of ranks, workers or restarts. Global batch k of B samples is the positions [k * B, k * B + B);
whoever makes a part of it asks for those positions and nothing else, so every topology and every restart sees the same
batches. An epoch is `epoch_size` positions. It is made like this:

1. Each data set has its own stream of passes. Pass p is its shards in an order of its own; a pass is over before the
   next one begins, so no sample comes again before all others came. Epoch e takes the next round(weight * samples).
2. What an epoch takes is pieces: whole shards, and a part of one at either end. A part takes ranks of a permutation of
   its shard, so that the rest of the shard comes in the next epoch.
3. The pieces of all data sets are shuffled and cut into windows of some thousand samples, and the samples of a window
   are shuffled. A reader thus has few shards open, and neighbours in a batch come from many of them.

Only shards are listed (megabytes for millions of samples); windows are worked out when a position in them is asked for.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.train.data.mixing import derive_key, permutation

_PASS, _PART, _EPOCH, _WINDOW = range(4)  # what a key is for, so that no two purposes share one
_KEPT_EPOCHS = 2  # a batch may lie across the end of an epoch
_KEPT_WINDOWS = 4

Integers = NDArray[np.int64]


class Places(NamedTuple):
    """Where the samples of some positions lie; int64 [P] each."""

    dataset: Integers
    """Number of the data set."""
    shard: Integers
    """Its shard."""
    index: Integers  # type: ignore[assignment]  # hides tuple.index, which is not used here
    """Place among the usable samples of the shard."""
    sample: Integers
    """Number of the sample among all samples of all data sets."""
    epoch: Integers
    """How often the sample came before: the pass over its data set, which is the epoch where the weight is 1."""
    window_start: Integers
    """First position of the window that the position lies in."""
    window_stop: Integers
    """Position behind the last of the window."""


class _Pieces(NamedTuple):
    """Parts of shards, int64 [pieces] each."""

    dataset: Integers
    shard: Integers
    number: Integers  # the pass
    start: Integers  # ranks [start, stop) of the shard
    stop: Integers


class _Epoch(NamedTuple):
    """The pieces of an epoch in their order, and its windows."""

    pieces: _Pieces
    ends: Integers  # [pieces] positions of the epoch behind each piece
    first_piece: Integers  # [windows + 1]
    bounds: Integers  # [windows + 1] positions of the epoch


class _Window(NamedTuple):
    """The samples of a window in their order; uint32 [samples] each."""

    piece: NDArray[np.uint32]
    within: NDArray[np.uint32]  # place among the usable samples of the piece's shard


class Order:
    """The endless stream of one or more data sets. `at` is pure; what it keeps only saves time."""

    def __init__(
        self,
        shard_sizes: Sequence[Integers],
        *,
        seed: int,
        weights: Sequence[float] = (),
        window: int = 8192,
        shuffle: bool = True,
    ) -> None:
        """Describe the data.

        Args:
            shard_sizes: usable samples of each shard, int64 [shards] for each data set.
            seed: another seed, another order.
            weights: passes over each data set in an epoch, 1 each where left out. 0.5 takes a different half of the
                samples in each of two epochs, 2 takes every sample twice.
            window: samples, at least, that are shuffled among one another.
            shuffle: False for the natural order, as evaluation wants it.

        Raises:
            ValueError: no samples, weights that do not go with the data sets, or a window below 1.
        """
        self._sizes = [np.asarray(sizes, dtype=np.int64) for sizes in shard_sizes]
        self._totals = [int(sizes.sum()) for sizes in self._sizes]
        weights = tuple(weights) or (1.0,) * len(self._sizes)
        if len(weights) != len(self._sizes) or not all(0 < weight < float("inf") for weight in weights):
            raise ValueError(
                f"weights {list(weights)}: give a positive number for each of the {len(self._sizes)} data sets"
            )
        if window < 1:
            raise ValueError(f"window {window}: give at least 1 sample")
        self._seed = seed
        self._window = window
        self._shuffle = shuffle
        self._taken = [
            max(1, round(weight * total)) if total else 0 for weight, total in zip(weights, self._totals, strict=True)
        ]
        self.epoch_size = sum(self._taken)
        """Positions of an epoch."""
        if not self.epoch_size:
            raise ValueError("the data sets contain no samples")
        first = np.cumsum([0, *self._totals])
        self._shard_offsets = [first[d] + np.cumsum(sizes) - sizes for d, sizes in enumerate(self._sizes)]
        self._epochs: OrderedDict[int, _Epoch] = OrderedDict()
        self._windows: OrderedDict[tuple[int, int], _Window] = OrderedDict()

    def at(self, positions: Integers) -> Places:
        """Return the places of stream positions, int64 [P] in any order, from 0 on; ValueError for a negative one."""
        positions = np.asarray(positions, dtype=np.int64)
        if positions.size and positions.min() < 0:
            raise ValueError(f"position {positions.min()}: the stream begins at 0")
        places = Places(*(np.empty(len(positions), dtype=np.int64) for _ in Places._fields))
        epochs, offsets = np.divmod(positions, self.epoch_size)
        for number in np.unique(epochs).tolist():
            epoch = self._epoch(number)
            chosen = np.flatnonzero(epochs == number)
            windows = np.searchsorted(epoch.bounds, offsets[chosen], side="right") - 1
            # One sort in place of one comparison a window: a listing of a whole epoch asks for all of them.
            by_window = np.argsort(windows, kind="stable")
            names, starts = np.unique(windows[by_window], return_index=True)
            for window, rows in zip(names.tolist(), np.split(chosen[by_window], starts[1:]), strict=True):
                self._fill(places, rows, offsets[rows], number, window)
        return places

    def most_shards(self) -> int:
        """Return how many shards the samples of a window lie in at most, in any epoch."""
        sizes = np.sort(np.concatenate(self._sizes))
        sizes = sizes[sizes > 0]
        # But for its last piece a window holds less than two windows' samples, as too short a rest joins the last one;
        # and an epoch begins and ends within a shard of each data set.
        whole = int(np.searchsorted(np.cumsum(sizes), 2 * self._window)) + 1
        return min(len(sizes), whole + 2 * len(self._sizes))

    def _fill(self, places: Places, rows: Integers, offsets: Integers, number: int, window: int) -> None:
        """Write the places of positions of one window, given as offsets in epoch `number`, to `rows`."""
        epoch, content = self._epoch(number), self._content(number, window)
        inside = offsets - epoch.bounds[window]
        piece = content.piece[inside]
        places.dataset[rows] = datasets = epoch.pieces.dataset[piece]
        places.shard[rows] = shards = epoch.pieces.shard[piece]
        places.index[rows] = index = content.within[inside]
        places.epoch[rows] = epoch.pieces.number[piece]
        places.window_start[rows] = number * self.epoch_size + epoch.bounds[window]
        places.window_stop[rows] = number * self.epoch_size + epoch.bounds[window + 1]
        for dataset in np.unique(datasets).tolist():
            of_it = datasets == dataset
            places.sample[rows[of_it]] = self._shard_offsets[dataset][shards[of_it]] + index[of_it]

    def _epoch(self, number: int) -> _Epoch:
        if number not in self._epochs:
            self._epochs[number] = self._plan(number)
            if len(self._epochs) > _KEPT_EPOCHS:
                self._epochs.popitem(last=False)
        self._epochs.move_to_end(number)
        return self._epochs[number]

    def _content(self, number: int, window: int) -> _Window:
        key = number, window
        if key not in self._windows:
            self._windows[key] = self._list(number, window)
            if len(self._windows) > _KEPT_WINDOWS:
                self._windows.popitem(last=False)
        self._windows.move_to_end(key)
        return self._windows[key]

    def _plan(self, number: int) -> _Epoch:
        """Choose the pieces of an epoch, shuffle them, and cut them into windows."""
        parts = [
            piece
            for dataset, (total, taken) in enumerate(zip(self._totals, self._taken, strict=True))
            if taken
            for piece in self._pass_pieces(dataset, total, number * taken, (number + 1) * taken)
        ]
        pieces = _Pieces(*(np.concatenate(column) for column in zip(*parts, strict=True)))
        if self._shuffle:
            shuffled = permutation(len(pieces.shard), derive_key(self._seed, _EPOCH, number))
            pieces = _Pieces(*(column[shuffled] for column in pieces))
        ends = np.cumsum(pieces.stop - pieces.start)
        first_piece = cut_windows(ends, self._window)
        return _Epoch(pieces, ends, first_piece, np.concatenate([[0], ends])[first_piece])

    def _pass_pieces(self, dataset: int, total: int, start: int, stop: int) -> list[_Pieces]:
        """Return the pieces at [start, stop) of the data set's stream of passes, one entry a pass."""
        sizes = self._sizes[dataset]
        found = []
        for number in range(start // total, (stop - 1) // total + 1):
            shards = np.arange(len(sizes))
            if self._shuffle:
                shards = permutation(len(sizes), derive_key(self._seed, _PASS, dataset, number))
            shard_sizes = sizes[shards]
            begins = number * total + np.cumsum(shard_sizes) - shard_sizes
            first = np.clip(start - begins, 0, shard_sizes)
            last = np.clip(stop - begins, 0, shard_sizes)
            kept = last > first
            count = int(kept.sum())
            found.append(
                _Pieces(np.full(count, dataset), shards[kept], np.full(count, number), first[kept], last[kept])
            )
        return found

    def _list(self, number: int, window: int) -> _Window:
        """Write down the samples of a window in their order."""
        epoch = self._epoch(number)
        pieces = range(int(epoch.first_piece[window]), int(epoch.first_piece[window + 1]))
        piece = np.repeat(
            np.arange(pieces.start, pieces.stop, dtype=np.uint32),
            (epoch.pieces.stop - epoch.pieces.start)[pieces.start : pieces.stop],
        )
        within = np.concatenate([self._piece_indices(epoch.pieces, p) for p in pieces]).astype(np.uint32)
        if not self._shuffle:
            return _Window(piece, within)
        shuffled = permutation(len(piece), derive_key(self._seed, _WINDOW, number, window))
        return _Window(piece[shuffled], within[shuffled])

    def _piece_indices(self, pieces: _Pieces, piece: int) -> Integers:
        """Return which samples of its shard a piece holds."""
        dataset, shard, number, start, stop = (int(column[piece]) for column in pieces)
        size = int(self._sizes[dataset][shard])
        if not self._shuffle or stop - start == size:
            return np.arange(start, stop)
        return permutation(size, derive_key(self._seed, _PART, dataset, number, shard))[start:stop]


def cut_windows(ends: Integers, window: int) -> Integers:
    """Group consecutive pieces into windows of at least `window` samples, as few pieces each as will do.

    Too short a rest joins the window before it. ends: samples up to and with each piece, [pieces], at least one piece.

    Returns:
        The first piece of each window and, last, the number of pieces; int64 [windows + 1].
    """
    firsts = [0]
    reached = 0
    while (piece := int(np.searchsorted(ends, reached + window))) < len(ends):
        firsts.append(piece + 1)
        reached = int(ends[piece])
    if len(firsts) == 1:
        firsts.append(0)  # fewer samples than a window: one window of all
    firsts[-1] = len(ends)
    return np.array(firsts, dtype=np.int64)
