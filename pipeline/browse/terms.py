"""One filter as a set of samples that is evaluated lazily.

A term knows how many entries of the index it would read to list its samples, and checks given samples by themselves.
So a search lists the smallest of its terms only, and checks these samples with the others: its work grows with the
smallest set, not with the data set. Legend: N samples, M samples listed or checked.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.browse.columns import SCORE_STEPS
from vilbert.pipeline.browse.index import Index

Numbers = NDArray[Any]
"""Of samples, [M]."""
Mask = NDArray[np.bool_]


BLOCK = 8192
CAPTION_CHECK = 8
"""Captions that are listed in the time in which those of one sample are checked."""


class Term(NamedTuple):
    """A filter."""

    size: int
    """Entries that `numbers` reads; at least the number of samples that match."""
    numbers: Callable[[], Numbers]
    """Return the samples that match, in any order, each once."""
    holds: Callable[[Numbers], Mask]
    """Return which of some samples match, [M]."""
    rest: float = math.inf
    """Samples that do not match; infinite where they cannot be listed."""
    others: Callable[[], Numbers] | None = None
    """Return the samples that do not match."""


def listed(numbers: Numbers, others: Numbers | None = None) -> Term:
    """Return the term of samples that are known; numbers, others: ascending."""
    rest = math.inf if others is None else len(others)
    return Term(
        len(numbers),
        lambda: numbers,
        lambda some: among(numbers, some),
        rest,
        None if others is None else lambda: others,
    )


def among(numbers: Numbers, some: Numbers) -> Mask:
    """Return which of some samples are in a list of numbers, ascending, by bisection."""
    at = np.searchsorted(numbers, some.astype(numbers.dtype))  # of another type, numpy would copy the whole list
    found: Mask = np.zeros(len(some), np.bool_)
    inside = at < len(numbers)
    found[inside] = numbers[at[inside]] == some[inside]
    return found


def distinct(ascending: Numbers) -> Numbers:
    """Return each of some numbers once. `np.unique` takes ten times as long for a million."""
    first: Mask = np.ones(len(ascending), np.bool_)
    np.not_equal(ascending[1:], ascending[:-1], out=first[1:])
    return ascending[first]


def values_of(index: Index, name: str, numbers: Any) -> Any:
    """Return what the order of a name sorts by, for some samples."""
    columns = index.columns
    if name == "side":
        return np.minimum(columns["width"][numbers], columns["height"][numbers])
    return columns["best_score" if name == "score" else name][numbers]


def ordered(index: Index, name: str, least: float, most: float) -> Term:
    """Return the samples whose value lies between two bounds, both included: a slice of the order of this value."""
    order = index.columns[f"order_{name}"]
    sign = -1 if name == "copies" else 1  # most copies first
    low, high = (least, most) if sign == 1 else (-most, -least)

    def key(at: int) -> int:
        return sign * int(values_of(index, name, order[at]))

    start, stop = bisect_left(range(len(order)), low, key=key), bisect_right(range(len(order)), high, key=key)
    stop = max(start, stop)

    def holds(some: Numbers) -> Mask:
        return within(values_of(index, name, some), least, most)

    return Term(
        stop - start,
        lambda: order[start:stop],
        holds,
        len(order) - (stop - start),
        lambda: np.concatenate([order[:start], order[stop:]]),
    )


def within(values: NDArray[Any], least: float, most: float) -> Mask:
    """Return which values lie between two bounds, both included."""
    mask: Mask = values >= least
    if most != math.inf:
        mask &= values <= most
    return mask


def copies_of(index: Index, number: int) -> Term:
    """Return the samples whose image has the same bytes as that of a sample, itself included."""
    columns = index.columns
    wanted = (-int(columns["copies"][number]), int(columns["image_hash"][number]))
    if wanted[0] > -2:
        return listed(np.array([number], np.uint32))
    order = columns["order_copies"]  # by copies, then by hash

    def key(at: int) -> tuple[int, int]:
        return -int(columns["copies"][order[at]]), int(columns["image_hash"][order[at]])

    start, stop = (bisect(range(len(order)), wanted, key=key) for bisect in (bisect_left, bisect_right))
    return listed(order[start:stop])


def scores_between(index: Index, least: int, most: int) -> Term:
    """Return the samples with a region whose score is in the steps from `least` to `most`."""
    columns = index.columns
    if least > most:
        return listed(np.empty(0, np.uint32))
    if most == SCORE_STEPS - 1:
        return ordered(index, "score", least + 1, math.inf)
    bits = sum(1 << step for step in range(least, most + 1))
    low, high = np.uint64(bits & (2**64 - 1)), np.uint64(bits >> 64)

    def holds(some: Numbers) -> Mask:
        steps = columns["score_steps"][some]
        mask: Mask = ((steps[:, 0] & low) | (steps[:, 1] & high)) != 0
        return mask

    start, stop = (int(columns["score_starts"][step]) for step in (least, most + 1))
    ends = [ordered(index, "score", least + 1, math.inf), ordered(index, "worst_score", 0, most + 1)]
    return _smallest(columns["score_samples"][start:stop], ends, holds, 1)


def words_between(index: Index, least: float, most: float) -> Term:
    """Return the samples with a caption of so many words."""
    columns = index.columns
    ends = [ordered(index, "longest", least + 1, math.inf), ordered(index, "shortest", 0, most)]
    if most == math.inf:
        return ends[0]
    if least <= 0:
        return ends[1]

    def holds(some: Numbers) -> Mask:
        starts = columns["caption_starts"]
        first, behind = (starts[at].astype(np.int64) for at in (some, some.astype(np.int64) + 1))
        return any_of(first, behind, lambda captions: within(columns["caption_words"][captions], least, most))

    counts = columns["word_counts"]
    start, stop = bisect_left(counts, least), bisect_right(counts, most)
    return _smallest(columns["word_samples"][start : max(start, stop)], ends, holds, CAPTION_CHECK)


def _smallest(postings: Numbers, ends: Sequence[Term], holds: Callable[[Numbers], Mask], check: int) -> Term:
    """Return the term that lists the postings of a range, or checks the samples that reach it, whichever is less work.

    check: postings that are listed in the time in which one sample is checked.
    """
    end = min(ends, key=lambda term: term.size)
    if len(postings) <= check * end.size:
        return Term(len(postings), lambda: distinct(np.sort(postings)), holds)

    def numbers() -> Numbers:
        some = end.numbers()
        return some[holds(some)]

    return Term(end.size, numbers, holds)


def any_of(first: NDArray[np.int64], behind: NDArray[np.int64], fits: Callable[[NDArray[np.int64]], Mask]) -> Mask:
    """Return for ranges of entries, [M] starts and ends, whether any entry of each fits."""
    mask: Mask = np.zeros(len(first), np.bool_)
    for part in range(0, len(first), BLOCK):  # what is computed of a block stays in the cache of the processor
        starts = first[part : part + BLOCK]
        counts = behind[part : part + BLOCK] - starts
        owner = np.repeat(np.arange(len(starts)), counts)
        entries = np.arange(len(owner)) - np.repeat(np.cumsum(counts) - counts - starts, counts)
        mask[part + owner[fits(entries)]] = True
    return mask


def regions_of(
    index: Index, kind: str, ids: Sequence[int], attributes: Sequence[int] | None, least: int, most: int
) -> Term:
    """Return the samples with a region of an object class or attribute, with a score in some steps.

    Args:
        index: The index.
        kind: object or attribute.
        ids: Of the classes or attributes of this kind, any of which a region may have.
        attributes: With an object: ids of attributes, one of which the same region has; None: any.
        least: First step of the scores.
        most: Last step of the scores.
    """
    columns = index.columns
    samples, scores = columns[f"{kind}_samples"], columns[f"{kind}_scores"]
    parts = [tuple(map(int, columns[f"{kind}_starts"][number : number + 2])) for number in ids]
    every = (least, most) == (0, SCORE_STEPS - 1) and attributes is None

    def fits(regions: Any) -> Mask:
        mask = within(scores[regions], least, most)
        if attributes is not None:
            of_regions = columns["object_attributes"][regions]
            mask &= np.logical_or.reduce([of_regions == attribute for attribute in attributes])
        return mask

    def numbers() -> Numbers:
        found = []
        for start, stop in parts:
            of_part = samples[start:stop]
            found.append(distinct(of_part if every else of_part[fits(slice(start, stop))]))
        return found[0] if len(found) == 1 else distinct(np.sort(np.concatenate(found)))

    def holds(some: Numbers) -> Mask:
        mask: Mask = np.zeros(len(some), np.bool_)
        for start, stop in parts:
            if every:
                mask |= among(samples[start:stop], some)
                continue
            wanted = some.astype(samples.dtype)
            first, behind = (start + np.searchsorted(samples[start:stop], wanted, side) for side in ("left", "right"))
            mask |= any_of(first, behind, fits)
        return mask

    return Term(sum(stop - start for start, stop in parts), numbers, holds)
