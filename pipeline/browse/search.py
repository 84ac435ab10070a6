"""Filters to samples: masks over the samples of an index, and the places of the matches in an order.

A filter compares a column in memory or takes a slice of the sorted regions; captions are searched by FTS5. What is
found for a set of filters is kept, so that its further pages are a slice. Legend: N samples, M matches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.browse.columns import SCORE_STEPS
from vilbert.pipeline.browse.filters import COUNTS, NO_SPLIT, FilterError, Filters, captions_expression
from vilbert.pipeline.browse.index import Index
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.plugins import did_you_mean

KEPT_RESULTS = 64
PAGE = 60
"""Samples of a page."""

Mask = NDArray[np.bool_]


class Page(NamedTuple):
    """Some matches that follow each other."""

    numbers: list[int]
    """Of the samples."""
    ranks: list[int]
    """Place of each in the order of all samples: what a link names to go on from there."""
    matches: int
    """How many there are on all pages."""
    before: int
    """Of the matches that precede the page."""


class Search:
    """Searches in one data set."""

    def __init__(self, index: Index, info: DatasetInfo) -> None:
        self.index = index
        self.info = info
        self._ranks = lru_cache(maxsize=KEPT_RESULTS)(self._find)
        self._by_words = lru_cache(maxsize=KEPT_RESULTS)(self._captions)

    def page(self, filters: Filters, *, after: int = -1, until: int | None = None, size: int = PAGE) -> Page:
        """Return the matches behind a place of the order, or with `until` the last before that one."""
        ranks = self._ranks(filters)
        if until is None:
            start = int(np.searchsorted(ranks, after, side="right"))
            stop = min(start + size, len(ranks))
        else:
            stop = int(np.searchsorted(ranks, until, side="left"))
            start = max(stop - size, 0)
        some = ranks[start:stop]
        return Page(self._order(filters.sort, some).tolist(), some.tolist(), len(ranks), start)

    def _order(self, sort: str, ranks: NDArray[np.uint32]) -> NDArray[Any]:
        """Return the numbers of the samples at some places of an order."""
        if not sort:
            return ranks
        order = self.index.columns[f"order_{sort.removeprefix('-')}"]
        return order[self.index.samples - 1 - ranks.astype(np.int64)] if sort.startswith("-") else order[ranks]

    def _find(self, filters: Filters) -> NDArray[np.uint32]:
        """Return the places of all matches in the order, [M] ascending."""
        if filters.sort.endswith("score") and not self.index.objects:
            raise FilterError("sort: this data set has no scores")
        mask = self.mask(filters.changed(sort=""))
        if mask is None:
            return np.arange(self.index.samples, dtype=np.uint32)
        if not filters.sort:
            return np.flatnonzero(mask).astype(np.uint32)
        order = self.index.columns[f"order_{filters.sort.removeprefix('-')}"]
        ordered = mask[order]
        return np.flatnonzero(ordered[::-1] if filters.sort.startswith("-") else ordered).astype(np.uint32)

    def mask(self, filters: Filters) -> Mask | None:
        """Return which samples match, [N]; None where all do. FilterError for what this data set cannot be asked."""
        columns = self.index.columns
        masks: list[Mask] = [] if self.index.complete else [columns["present"] == 1]
        if expression := captions_expression(filters.caption):
            masks.append(self._by_words(expression))
        elif filters.caption:
            raise FilterError("caption: give at least one word that must be there")
        if filters.split:
            masks.append(columns["split"] == self._split(filters.split))
        masks += [within(columns[name], *_bounds(filters, name)) for name in COUNTS[:2] if _asked(filters, name)]
        if _asked(filters, "words"):
            masks.append(self._words(*_bounds(filters, "words")))
        if _asked(filters, "side"):
            masks.append(within(np.minimum(columns["width"], columns["height"]), *_bounds(filters, "side")))
        if filters.same:
            masks.append(self._copies(filters.same))
        if filters.object or filters.attribute or filters.score_min is not None or filters.score_max is not None:
            masks.append(self._regions(filters))
        return np.logical_and.reduce(masks) if masks else None

    def _captions(self, expression: str) -> Mask:
        return self._marked(self.index.matching(expression))

    def _split(self, name: str) -> int:
        try:
            return self.index.splits.index("" if name == NO_SPLIT else name)
        except ValueError:
            raise FilterError(f"split: there is no split {name!r:.60}") from None

    def _words(self, least: float, most: float) -> Mask:
        return self._marked(self._caption_samples[within(self.index.columns["caption_words"], least, most)])

    @cached_property
    def _caption_samples(self) -> NDArray[np.uint32]:
        """The sample of each caption, [C]."""
        numbers = np.arange(self.index.samples, dtype=np.uint32)
        return np.repeat(numbers, self.index.columns["captions"].astype(np.int64))

    def _copies(self, same: str) -> Mask:
        columns = self.index.columns
        if same == "any":
            mask: Mask = columns["copies"] > 1
            return mask
        sample = self.index.find(same)
        if sample is None:
            raise FilterError(f"same: no sample has the key {same!r:.60}")
        if columns["copies"][sample.number] < 2:
            return self._marked([sample.number])
        equal: Mask = columns["image_hash"] == columns["image_hash"][sample.number]
        return equal

    def _regions(self, filters: Filters) -> Mask:
        """Return the samples with a region of a class, an attribute and a score, whichever are asked for."""
        if not self.index.objects:
            raise FilterError("object, attribute and score: the regions of this data set have no classes")
        if filters.attribute and not self.index.attributes:
            raise FilterError("attribute: the regions of this data set have no attributes")
        columns = self.index.columns
        least, most = score_steps(filters)
        if not filters.object and not filters.attribute:
            return score_mask(columns["score_steps"], least, most)
        kind = "object" if filters.object else "attribute"
        attributes = self._ids("attribute", filters.attribute) if filters.object and filters.attribute else None
        mask: Mask = np.zeros(self.index.samples, np.bool_)
        for number in self._ids(kind, filters.object or filters.attribute):
            part = slice(*map(int, columns[f"{kind}_starts"][number : number + 2]))
            fits = within(columns[f"{kind}_scores"][part], least, most)
            if attributes is not None:
                fits &= np.isin(columns["object_attributes"][part], attributes)
            mask[columns[f"{kind}_samples"][part][fits]] = True
        return mask

    def _ids(self, kind: str, name: str) -> Sequence[int]:
        names = self.info.class_names if kind == "object" else self.info.attribute_names
        found = [number for number, known in enumerate(names) if known == name]
        if not found:
            raise FilterError(f"{kind}: no {kind} is called {name!r:.60}{did_you_mean(name, names)}")
        return found

    def _marked(self, numbers: Any) -> Mask:
        mask: Mask = np.zeros(self.index.samples, np.bool_)
        mask[numbers] = True
        return mask


def _asked(filters: Filters, name: str) -> bool:
    return getattr(filters, f"{name}_min") is not None or getattr(filters, f"{name}_max") is not None


def _bounds(filters: Filters, name: str) -> tuple[float, float]:
    least, most = getattr(filters, f"{name}_min"), getattr(filters, f"{name}_max")
    return (0 if least is None else least), (math.inf if most is None else most)


def within(values: NDArray[Any], least: float, most: float) -> Mask:
    """Return which values lie between two bounds, both included."""
    mask: Mask = values >= least
    if most != math.inf:
        mask &= values <= most
    return mask


def score_steps(filters: Filters) -> tuple[int, int]:
    """Return the first and the last step of the scores that are asked for; the last step includes 1."""
    last = SCORE_STEPS - 1
    least = round((filters.score_min or 0.0) * SCORE_STEPS)
    most = last if filters.score_max in (None, 1.0) else round((filters.score_max or 0.0) * SCORE_STEPS) - 1
    return min(least, last), most


def score_mask(steps: NDArray[np.uint64], least: int, most: int) -> Mask:
    """Return which samples have a score in the steps from `least` to `most`. steps: [N, 2] a bit for each step."""
    bits = sum(1 << step for step in range(least, most + 1))
    low, high = np.uint64(bits & (2**64 - 1)), np.uint64(bits >> 64)
    mask: Mask = ((steps[:, 0] & low) | (steps[:, 1] & high)) != 0
    return mask
