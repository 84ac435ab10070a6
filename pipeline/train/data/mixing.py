"""The one bit mixer under every random decision of training, and what is built on it: keys and permutations.

All of it is integer arithmetic on 64-bit words, so the same key gives the same decision on every machine and with every
version of numpy. numpy's own generators promise the same bits, not the same permutations.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

GOLDEN = 0x9E3779B97F4A7C15  # 2^64 / golden ratio, made odd: SplitMix64's step
_MASK = (1 << 64) - 1


def mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scatter 64-bit words so that neighbouring inputs give unrelated outputs.

    A fixed bijection of uint64. Zero stays zero, so callers mix a counter after adding an odd constant to it.

    Args:
        x: words, uint64 of any shape; left as it is.

    Returns:
        uint64 of the same shape.

    Source: the finaliser of SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators",
    section 3; constants of Stafford's variant 13).
    """
    mixed = np.array(x, dtype=np.uint64)
    mixed ^= mixed >> np.uint64(30)
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    mixed ^= mixed >> np.uint64(31)
    return mixed


def derive_key(*words: int) -> int:
    """Return a 64-bit key for a sequence of integers; another sequence, another key, up to chance."""
    key = 0
    for word in words:
        key = int(mix64(np.array([((key + GOLDEN) & _MASK) ^ (word & _MASK)], dtype=np.uint64))[0])
    return key


def permutation(count: int, key: int) -> NDArray[np.int64]:
    """Return the numbers [0, count) in the order of their hashes under `key`, int64 [count].

    The hashes are the outputs of SplitMix64 started at `key`: all different, since each step and the finaliser are
    bijections, so no tie is left to the sort.
    """
    steps = np.arange(1, count + 1, dtype=np.uint64)
    hashes = mix64(steps * np.uint64(GOLDEN) + np.uint64(key))
    return np.argsort(hashes, kind="stable").astype(np.int64, copy=False)
