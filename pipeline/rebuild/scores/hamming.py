"""Find pairs of 64-bit hashes that differ in few bits, among millions, without comparing all pairs.

If two hashes differ in at most d bits and are divided into d + r bands of bits, at least r bands are equal (pigeonhole
principle). So for each choice of r bands, the hashes are sorted by these bands only, and only hashes with equal bands
are compared. Source: Norouzi, Punjani and Fleet, "Fast search in Hamming space with multi-index hashing" (CVPR 2012).
Unlike there, each table uses several equal bands instead of one, which keeps the tables selective for non-uniform
hashes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import reduce
from operator import or_
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_DISTANCE = 10
"""Maximum number of bits. Above it, unrelated images begin to match, and many tables are needed."""
_AT_ONCE = 1 << 22
"""Number of pairs that are compared at a time: about 100 MB."""

Hashes = NDArray[np.uint64]
Numbers = NDArray[np.int64]


class Pairs(NamedTuple):
    """Some pairs of similar hashes; a pair may occur more than once."""

    first: Numbers
    second: Numbers
    distance: NDArray[np.uint8]
    """Number of bits in which they differ."""


def near_pairs(first: Hashes, second: Hashes, distance: int) -> Iterator[Pairs]:
    """Yield all pairs of a hash of `first` and one of `second` that differ in at most `distance` bits.

    Args:
        first: [F] hashes.
        second: [S] hashes. If it is the same array as `first`, pairs within it are found, each in one direction.
        distance: Bits, from 0 to `MAX_DISTANCE`.

    Yields:
        Indices into both arrays. Memory depends on their sizes only, not on the number of pairs.
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise ValueError(f"distance {distance}: give 0 to {MAX_DISTANCE}")
    for mask in band_masks(distance):
        keys = second & mask
        by_key = np.argsort(keys, kind="stable")
        keys = keys[by_key]
        if first is second:
            asked, low = by_key, np.arange(1, len(keys) + 1)
            high = np.searchsorted(keys, keys, side="right")
        else:
            asked = np.arange(len(first))
            low, high = (np.searchsorted(keys, first & mask, side=side) for side in ("left", "right"))
        for rows, places in _candidates(low, high):
            left, right = asked[rows], by_key[places]
            bits = np.bitwise_count(first[left] ^ second[right])
            near = bits <= distance
            if near.any():
                yield Pairs(left[near], right[near], bits[near])


def band_masks(distance: int) -> list[np.uint64]:
    """Return the bits that each table compares: every choice of r among distance + r bands of the 64 bits."""
    equal = 2 if distance <= 5 else 3
    bounds = np.linspace(0, 64, distance + equal + 1).round().astype(int).tolist()
    bands = [(1 << stop) - (1 << start) for start, stop in itertools.pairwise(bounds)]
    return [np.uint64(reduce(or_, chosen)) for chosen in itertools.combinations(bands, equal)]


def _candidates(low: Numbers, high: Numbers) -> Iterator[tuple[Numbers, Numbers]]:
    """Yield (row, position) for each position in [low, high) of each row, some millions at a time."""
    counts = high - low
    rows = np.flatnonzero(counts > 0)
    ends = np.cumsum(counts[rows])
    start, done = 0, 0
    while start < len(rows):
        stop = max(start + 1, int(np.searchsorted(ends, done + _AT_ONCE, side="right")))
        some = rows[start:stop]
        sizes = counts[some]
        inside = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        yield np.repeat(some, sizes), np.repeat(low[some], sizes) + inside
        done, start = int(ends[stop - 1]), stop


def near_groups(hashes: Hashes, distance: int) -> Numbers:
    """Return groups of hashes that are connected by chains of similar pairs.

    Args:
        hashes: [S].
        distance: Maximum number of bits in which two hashes of a pair differ.

    Returns:
        int64 [S]: the index of the first hash of each hash's group; its own index for a hash without similar ones.
    """
    unique, firsts, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    labels = np.arange(len(unique))
    for pairs in near_pairs(unique, unique, distance):
        labels = _joined(labels, pairs.first, pairs.second)
    first_of_group = np.full(len(unique), len(hashes), np.int64)
    np.minimum.at(first_of_group, labels, firsts)
    groups: Numbers = first_of_group[labels][inverse.reshape(-1)]
    return groups


def _joined(labels: Numbers, left: Numbers, right: Numbers) -> Numbers:
    """Return labels of components with more edges; a label is the smallest member of its component."""
    while True:
        one, other = labels[left], labels[right]
        apart = one != other
        if not apart.any():
            return labels
        left, right, one, other = left[apart], right[apart], one[apart], other[apart]
        labels = labels.copy()
        np.minimum.at(labels, np.maximum(one, other), np.minimum(one, other))
        while (labels != (shorter := labels[labels])).any():
            labels = shorter


def nearest(first: Hashes, second: Hashes, distance: int) -> tuple[Numbers, Numbers]:
    """Return for each hash of `first` the nearest of `second` within a distance.

    Args:
        first: [F] hashes.
        second: [S] hashes.
        distance: Maximum number of bits in which they differ.

    Returns:
        int64 [F] index into `second`, -1 if none is within the distance; int64 [F] number of bits in which the two
        differ. Of several at the same distance, the smallest hash is returned.
    """
    unique, inverse = np.unique(first, return_inverse=True)
    others, firsts = np.unique(second, return_index=True)
    far = np.int64(1) << 62
    best = np.full(len(unique), far)
    for pairs in near_pairs(unique, others, distance):
        np.minimum.at(best, pairs.first, (pairs.distance.astype(np.int64) << 48) | pairs.second)
    best = best[inverse.reshape(-1)]
    found = best != far
    indices = np.full(len(first), -1, np.int64)
    indices[found] = firsts[best[found] & ((1 << 48) - 1)]
    return indices, np.where(found, best >> 48, 0)
