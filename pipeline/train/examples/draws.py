"""Random numbers of training: a pure function of (seed, epoch, sample, stream, counter).

No generator has a state that could be lost, copied into a worker or used up in another order. Whoever works on a
sample, in whichever process and batch, draws the same numbers; a run that is killed needs to remember none of it.

A key names a sample in an epoch. A stream names what its numbers decide, so that adding a decision changes no other.
Counters number the words of a stream. All of it is mixed by the finaliser of SplitMix64.

Shapes: B samples.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.train.data.mixing import GOLDEN, mix64

_COUNTER_STEP = np.uint64(GOLDEN)
_STREAM_STEP = 0xD1342543DE82EF95  # another odd constant: streams must not lie on the line of counters
_LOWER_64 = 0xFFFFFFFFFFFFFFFF
_UNIT = 2.0**-53


class Stream(IntEnum):
    """The purpose of a random number. The values are part of the meaning of a seed: append new ones, change none."""

    CAPTION = 0
    """Choice of an image's caption."""
    SWAP = 1
    """Whether the caption is that of another image."""
    PARTNER = 2
    """Choice of the other image and its caption."""
    WORD_MASK = 3
    """Choice of words to predict."""
    WORD_ACTION = 4
    """Whether a word to predict is masked, replaced or kept."""
    WORD_RANDOM = 5
    """Replacement of a word."""
    REGION_MASK = 6
    """Choice of regions to predict."""
    REGION_ACTION = 7
    """Whether a region to predict is masked or kept."""
    IMAGE = 8
    """Choice of the image that a blind model sees."""


def keys(seed: int, epoch: NDArray[np.int64], sample: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Return the key of each sample in its epoch.

    epoch, sample: int64 [B], not negative. seed: any integer; its lower 64 bits count.
    Returns uint64 [B].
    """
    mixed = mix64(np.full(len(sample), (seed + int(_COUNTER_STEP)) & _LOWER_64, dtype=np.uint64))
    for part in (epoch, sample):
        mixed = mix64(mixed + (part.astype(np.uint64) + np.uint64(1)) * _COUNTER_STEP)
    return mixed


def bits(sample_keys: NDArray[np.uint64], stream: int, count: int) -> NDArray[np.uint64]:
    """Return the first `count` words of a stream, uint64 [B, count]; asking for more changes none of them."""
    starts = mix64(sample_keys + np.uint64((stream + 1) * _STREAM_STEP & _LOWER_64))
    return mix64(starts[:, None] + np.arange(1, count + 1, dtype=np.uint64) * _COUNTER_STEP)


def uniforms(sample_keys: NDArray[np.uint64], stream: int, count: int) -> NDArray[np.float64]:
    """Return the first `count` numbers of a stream, float64 [B, count] in [0, 1), from the upper 53 bits of a word."""
    return (bits(sample_keys, stream, count) >> np.uint64(11)).astype(np.float64) * _UNIT


def below(words: NDArray[np.uint64], bound: int | NDArray[np.int64]) -> NDArray[np.int64]:
    """Return integers in [0, bound) from random words, int64 of the shape that `words` and `bound` broadcast to.

    bound: from 1 to 2^32 - 1, one or an array. Some values are more likely than others by less than bound / 2^32.
    Source: the upper half of a product, as in Lemire 2019, "Fast random integer generation in an interval", without
    its rejection step.
    """
    return (((words >> np.uint64(32)) * np.asarray(bound, dtype=np.uint64)) >> np.uint64(32)).astype(np.int64)
