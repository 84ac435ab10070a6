"""Random draws that depend on (seed, index, stream) alone.

Philox is counter-based: the seed and the index are its key, the stream is a word of its counter, so scene 7 is the
same whichever scenes were made before it, and its noise does not move when its captions draw more. Only raw 64-bit
words are taken from numpy: they are fixed for ever, while the distributions of `numpy.random.Generator` may change
(NEP 19).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import IntEnum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")
_BLOCK = 128  # words drawn at a time


class Stream(IntEnum):
    """Purpose of a draw; each purpose has its own range of the generator's counter."""

    OBJECTS = 0
    BACKGROUND = 1
    CAPTIONS = 2
    QUESTIONS = 3
    CHOICES = 4
    EXPRESSIONS = 5


class Draws:
    """The draws of one scene for one purpose."""

    def __init__(self, seed: int, index: int, stream: Stream) -> None:
        self._words = np.random.Philox(key=[seed, index], counter=[0, 0, 0, int(stream)])
        self._block: list[int] = []

    def below(self, bound: int) -> int:
        """Return an integer in [0, bound), for bounds below 2**32."""
        if not self._block:
            self._block = self._words.random_raw(_BLOCK).tolist()
        return ((self._block.pop() >> 32) * bound) >> 32

    def between(self, low: int, high: int) -> int:
        """Return an integer in [low, high], inclusive."""
        return low + self.below(high - low + 1)

    def chance(self, percent: int) -> bool:
        """Return True with a probability of `percent` / 100."""
        return self.below(100) < percent

    def choice(self, values: Sequence[T]) -> T:
        """Return one of `values`."""
        return values[self.below(len(values))]

    def sample(self, values: Sequence[T], count: int) -> list[T]:
        """Return `count` of `values` at different positions, in random order."""
        left = list(values)
        return [left.pop(self.below(len(left))) for _ in range(count)]

    def shuffled(self, values: Sequence[T]) -> list[T]:
        """Return all of `values` in random order."""
        return self.sample(values, len(values))

    def octets(self, count: int) -> NDArray[np.uint8]:
        """Return `count` random bytes, independent of the machine's byte order."""
        words = self._words.random_raw(-(-count // 8)).astype("<u8")
        return words.view(np.uint8)[:count]
