"""Compare shards with their records in the background, ahead of the steps that use them.

Whoever reads a shard compares its SHA-256 first (`Corpus.read`). So that loaders need not wait for that, a thread of
the training process goes through the shards of the coming steps in their order. It neither changes what is read nor in
which order. Hashing lets other threads run, so it costs a part of a core, once in the first epoch.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Generator, Iterable
from typing import TypeVar

import numpy as np

from vilbert.pipeline.shards.storage.verified import VerifiedFiles
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.run.settings import RunSettings

B = TypeVar("B")

VERIFIED_FILE = ".verified"
"""In the run's folder: what was compared already, so that a resumed run does not do it again."""
AHEAD = 4 * 8192
"""Positions of the stream, at most, that the thread is ahead of training."""
_AT_A_TIME = 1024
_LONGEST_END_SECONDS = 5.0


def verified_files(settings: RunSettings) -> VerifiedFiles | None:
    """Return what compares the shards of a run; None where it is not to be done."""
    return VerifiedFiles(settings.output / VERIFIED_FILE) if settings.verify_shards else None


def verifying_ahead(
    corpus: Corpus, order: Order, batches: Generator[B, None, None], steps: Iterable[int], *, batch_size: int
) -> Generator[B, None, None]:
    """Yield the batches of some steps while a thread compares the shards of those that follow.

    order: of the samples of `corpus`, or of items whose images they are. Closing the iterator ends the thread and
    closes `batches`.
    """
    ahead = None
    try:
        for step, batch in zip(steps, batches, strict=False):
            if ahead is None and corpus.verifies:  # not before: the first batch has forked the loaders
                ahead = _Ahead(corpus, order, step * batch_size)
            if ahead is not None:
                ahead.reach((step + 1) * batch_size)
            yield batch
    finally:
        if ahead is not None:
            ahead.end()
        batches.close()


class _Ahead:
    """The thread, and how far it may go."""

    def __init__(self, corpus: Corpus, order: Order, position: int) -> None:
        self._corpus = corpus
        self._order = copy.deepcopy(order)  # it remembers parts of the stream, and one thread may use it
        self._position = self._reached = position
        self._moved, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="verify-ahead", daemon=True)
        self._thread.start()

    def reach(self, position: int) -> None:
        """Say up to which position of the stream batches were handed out."""
        self._reached = position
        self._moved.set()

    def end(self) -> None:
        """End the thread; it takes milliseconds, but where a file server does not answer, for which nobody waits."""
        self._stop.set()
        self._moved.set()
        self._thread.join(timeout=_LONGEST_END_SECONDS)

    def _run(self) -> None:
        first, seen = self._position, set[tuple[int, int]]()
        # An epoch on, all shards have been compared.
        while not self._stop.is_set() and self._position < first + 2 * self._order.epoch_size:
            if self._position >= self._reached + AHEAD:
                self._moved.wait()
                self._moved.clear()
                continue
            self._position = max(self._position, self._reached)
            places = self._order.at(np.arange(self._position, self._position + _AT_A_TIME))
            for name in zip(places.dataset.tolist(), places.shard.tolist(), strict=True):
                if name not in seen and not self._stop.is_set():
                    seen.add(name)
                    self._corpus.verify_shard(*name, stop=self._stop)
            self._position += _AT_A_TIME
