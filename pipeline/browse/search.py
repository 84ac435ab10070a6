"""Filters to samples: the matches of all filters, and their places in an order.

Only the smallest of the sets that the filters name is listed, or what all of them leave out where that is less; see
`terms`. What is found for a set of filters is kept, so that its further pages are a slice.

Legend: N samples, M matches.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.browse.columns import SCORE_STEPS
from vilbert.pipeline.browse.filters import ANY, NO_SPLIT, FilterError, Filters, captions_expression
from vilbert.pipeline.browse.index import Index, explained
from vilbert.pipeline.browse.terms import (
    Numbers,
    Term,
    copies_of,
    distinct,
    listed,
    ordered,
    regions_of,
    scores_between,
    words_between,
)
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.plugins import did_you_mean

KEPT_RESULTS = 64
PAGE = 60
"""Samples of a page."""
PER_SAMPLE = ("boxes", "captions", "side")
"""Filters by one whole number of a sample."""
LISTED_AT_ONCE = 200
"""Samples that FTS5 lists in the time in which it checks whether the captions of one match."""


class Page(NamedTuple):
    """Some matches that follow each other."""

    numbers: list[int]
    """Of the samples; of the rows, where failed images are asked for."""
    ranks: list[int]
    """Place of each in the order of all samples: what a link names to go on from there."""
    matches: int
    """How many there are on all pages."""
    before: int
    """Of the matches that precede the page."""


class Ranks(NamedTuple):
    """Places of the matches in an order: those listed, or all others of N."""

    listed: NDArray[Any]
    """Ascending."""
    without: int | None = None
    """N where the matches are the places that are not listed."""

    @property
    def matches(self) -> int:
        """M"""
        return len(self.listed) if self.without is None else self.without - len(self.listed)

    def before(self, rank: int) -> int:
        """Return how many matches lie before a place."""
        listed = bisect_left(self.listed, rank)
        return listed if self.without is None else min(max(rank, 0), self.without) - listed

    def part(self, start: int, stop: int) -> NDArray[Any]:
        """Return the places of some matches, counted from 0."""
        if self.without is None:
            return self.listed[start:stop]
        # Match m lies behind those listed places that have at most m matches before them.
        behind = (
            bisect_right(range(len(self.listed)), m, key=lambda at: self.listed[at] - at) for m in range(start, stop)
        )
        return np.arange(start, stop) + np.fromiter(behind, np.int64, stop - start)


class Search:
    """Searches in one data set."""

    def __init__(self, index: Index, info: DatasetInfo) -> None:
        self.index = index
        self.info = info
        self._ranks = lru_cache(maxsize=KEPT_RESULTS)(self._find)
        self._by_words = lru_cache(maxsize=KEPT_RESULTS)(index.matching)

    def page(self, filters: Filters, *, after: int = -1, until: int | None = None, size: int = PAGE) -> Page:
        """Return the matches behind a place of the order, or with `until` the last before that one."""
        with explained(self.index.folder):
            ranks = self._ranks(filters)
            if until is None:
                start = ranks.before(after + 1)
                stop = min(start + size, ranks.matches)
            else:
                stop = ranks.before(until)
                start = max(stop - size, 0)
            some = ranks.part(start, stop)
            return Page(self._numbers(filters, some).tolist(), some.tolist(), ranks.matches, start)

    def _numbers(self, filters: Filters, ranks: NDArray[Any]) -> NDArray[Any]:
        """Return the numbers of the samples at some places of an order."""
        sort = filters.sort
        if not sort or filters.failure:
            return ranks
        order = self.index.columns[f"order_{sort.removeprefix('-')}"]
        return order[self.index.samples - 1 - ranks.astype(np.int64)] if sort.startswith("-") else order[ranks]

    def _find(self, filters: Filters) -> Ranks:
        """Return the places of all matches in the order."""
        if filters.failure:
            return Ranks(self._failed(filters))
        if filters.sort.endswith("score") and not self.index.objects:
            raise FilterError("sort: this data set has no scores")
        samples = self.index.samples
        terms = sorted((term for term in self._terms(filters) if term.rest), key=lambda term: term.size)
        if not terms:  # or all samples match each of them
            return Ranks(np.empty(0, np.uint32), samples)
        without = None
        if sum(term.rest for term in terms) < terms[0].size:
            left_out = [term.others() for term in terms if term.others is not None]
            numbers, without = np.concatenate(left_out), samples
        else:
            numbers = np.sort(terms[0].numbers())  # the checks read columns and lists in their order, which is faster
            for term in terms[1:]:
                numbers = numbers[term.holds(numbers)]
        ranks = numbers
        if filters.sort:
            ranks = self.index.columns[f"rank_{filters.sort.removeprefix('-')}"][numbers]
            ranks = np.uint32(max(samples, 1) - 1) - ranks if filters.sort.startswith("-") else ranks
        return Ranks(distinct(np.sort(ranks)), without)

    def _failed(self, filters: Filters) -> NDArray[np.int64]:
        """Return the failed rows of a reason, ascending."""
        if filters.changed(failure="", sort="") != Filters():
            raise FilterError(
                "failure: a failed image has no captions, regions or size to filter by; remove the other filters"
            )
        counts = self.index.failure_counts
        if filters.failure != ANY and filters.failure not in counts:
            raise FilterError(
                f"failure: no image failed for {filters.failure!r:.60}{did_you_mean(filters.failure, counts)}"
            )
        reasons = counts if filters.failure == ANY else [filters.failure]
        return np.sort(np.concatenate([np.empty(0, np.int64), *map(self.index.failed_rows, reasons)]))

    def _terms(self, filters: Filters) -> list[Term]:
        """Return a term for each filter. FilterError for what this data set cannot be asked."""
        index, terms = self.index, []
        if not index.complete:
            terms.append(listed(index.shown, index.hidden))
        if filters.split:
            split = self._split(filters.split)
            terms.append(ordered(index, "split", split, split))
        terms += [ordered(index, name, *_bounds(filters, name)) for name in PER_SAMPLE if _asked(filters, name)]
        if _asked(filters, "words"):
            terms.append(words_between(index, *_bounds(filters, "words")))
        if filters.same == ANY:
            terms.append(ordered(index, "copies", 2, math.inf))
        elif filters.same:
            terms.append(self._copies(filters.same))
        if filters.object or filters.attribute or _asked(filters, "score"):
            terms.append(self._regions(filters))
        if filters.caption:
            terms.append(self._captions(filters.caption, min((term.size for term in terms), default=index.samples)))
        return terms

    def _captions(self, text: str, smallest: int) -> Term:
        """Return the samples whose captions match, listed unless checking those of a smaller set takes less time."""
        expression = captions_expression(text)
        if not expression:
            raise FilterError("caption: give at least one word that is not excluded")
        most = LISTED_AT_ONCE * smallest
        numbers = self._by_words(expression, most if most < self.index.samples else None)
        if numbers is not None:
            return listed(numbers)

        def holds(some: Numbers) -> NDArray[np.bool_]:
            return np.isin(some, self.index.matching_of(expression, some))

        return Term(most, lambda: self.index.matching_of(expression, np.arange(self.index.samples)), holds)

    def _split(self, name: str) -> int:
        try:
            return self.index.splits.index("" if name == NO_SPLIT else name)
        except ValueError:
            raise FilterError(f"split: no split {name!r:.60}") from None

    def _copies(self, key: str) -> Term:
        sample = self.index.find(key)
        if sample is None:
            raise FilterError(f"same: no sample has the key {key!r:.60}")
        return copies_of(self.index, sample.number)

    def _regions(self, filters: Filters) -> Term:
        """Return the samples with a region of a class, an attribute and a score, whichever are asked for."""
        if not self.index.objects:
            raise FilterError("object, attribute and score: the regions of this data set have no classes")
        if filters.attribute and not self.index.attributes:
            raise FilterError("attribute: the regions of this data set have no attributes")
        least, most = score_steps(filters)
        if not filters.object and not filters.attribute:
            return scores_between(self.index, least, most)
        kind = "object" if filters.object else "attribute"
        attributes = self._ids("attribute", filters.attribute) if filters.object and filters.attribute else None
        ids = self._ids(kind, filters.object or filters.attribute)
        return regions_of(self.index, kind, ids, attributes, least, most)

    def _ids(self, kind: str, name: str) -> Sequence[int]:
        names = self.info.class_names if kind == "object" else self.info.attribute_names
        found = [number for number, known in enumerate(names) if known == name]
        if not found:
            raise FilterError(f"{kind}: no {kind} is called {name!r:.60}{did_you_mean(name, names)}")
        return found


def _asked(filters: Filters, name: str) -> bool:
    return getattr(filters, f"{name}_min") is not None or getattr(filters, f"{name}_max") is not None


def _bounds(filters: Filters, name: str) -> tuple[float, float]:
    least, most = getattr(filters, f"{name}_min"), getattr(filters, f"{name}_max")
    return (0 if least is None else least), (math.inf if most is None else most)


def score_steps(filters: Filters) -> tuple[int, int]:
    """Return the first and the last step of the scores that are asked for; the last step includes 1."""
    last = SCORE_STEPS - 1
    least = round((filters.score_min or 0.0) * SCORE_STEPS)
    most = last if filters.score_max in (None, 1.0) else round((filters.score_max or 0.0) * SCORE_STEPS) - 1
    return min(least, last), most
