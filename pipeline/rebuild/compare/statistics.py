"""Running statistics of a comparison: their memory does not grow with the number of images.

Shapes: P matched pairs of regions, D feature channels.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.rebuild.compare.pair import ImagePair

BINS_PER_DECADE = 20
LOWEST, HIGHEST = -9, 3
"""Range of powers of ten in a histogram; smaller values count as 0, larger ones as the highest."""


class Moments:
    """Mean and standard deviation by channel of a stream of rows (Chan et al. 1979, pairwise update)."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(0)
        self._squares: NDArray[np.float64] = np.zeros(0)

    def add(self, rows: NDArray[Any]) -> None:
        """Add rows [P, D]; rows with a value that is not finite are ignored."""
        rows = rows[np.isfinite(rows).all(axis=1)].astype(np.float64)
        if not len(rows):
            return
        if not self.count:
            self.mean = self._squares = np.zeros(rows.shape[1])
        count = self.count + len(rows)
        mean = rows.mean(axis=0)
        apart = mean - self.mean
        self._squares = self._squares + ((rows - mean) ** 2).sum(axis=0) + apart**2 * (self.count * len(rows) / count)
        self.mean = self.mean + apart * (len(rows) / count)
        self.count = count

    def std(self) -> NDArray[np.float64]:
        """Return the standard deviation by channel [D]."""
        return np.sqrt(self._squares / max(self.count, 1))


class LogHistogram:
    """Counts of non-negative values in bins of equal ratio, from which quantiles are read."""

    def __init__(self) -> None:
        self.counts = np.zeros((HIGHEST - LOWEST) * BINS_PER_DECADE + 1, np.int64)
        """[bins]; the first counts values below 10^LOWEST."""

    def add(self, values: NDArray[np.float64]) -> None:
        """Add values [P]; infinite ones count as the highest."""
        with np.errstate(divide="ignore"):
            powers = np.log10(np.abs(values))
        places = np.floor((np.clip(powers, LOWEST - 1, HIGHEST) - LOWEST) * BINS_PER_DECADE).astype(np.intp) + 1
        self.counts += np.bincount(places.clip(0, len(self.counts) - 1), minlength=len(self.counts))

    def quantile(self, share: float) -> float:
        """Return the upper edge of the bin of a quantile, 0 for the first bin; NaN without values."""
        total = int(self.counts.sum())
        if not total:
            return float("nan")
        place = int(np.searchsorted(np.cumsum(self.counts), share * total, side="left"))
        place = min(place, int(np.flatnonzero(self.counts)[-1]))
        return 0.0 if place == 0 else float(10 ** (LOWEST + place / BINS_PER_DECADE))


@dataclass(frozen=True, kw_only=True, order=True)
class WorstImage:
    """An image that differs more than others."""

    distance: float
    """See `ImagePair.distance`."""
    image_id: str
    row_a: int
    row_b: int
    matched: float
    """Fraction of its regions that have a match."""
    cosine: float | None
    """Mean cosine of its matched features; None if no features are comparable."""
    regions: tuple[int, int]
    """Number of regions in A and in B."""


@dataclass(kw_only=True)
class Totals:
    """Sums over the images compared so far."""

    min_cosine: float
    """Minimum cosine of equal features."""
    keep: int
    """Number of worst images to keep."""
    images: int = 0
    differing: int = 0
    """Number of images with a region without match or with unequal features."""
    regions_a: int = 0
    regions_b: int = 0
    matched: int = 0
    """Number of matched pairs of regions."""
    compared: int = 0
    """Number of pairs whose features have the same number of channels."""
    equal: int = 0
    """Number of pairs whose features are equal."""
    cosine_sum: float = 0.0
    iou_sum: float = 0.0
    not_finite_a: int = 0
    """Number of regions of A with a value that is not finite."""
    not_finite_b: int = 0
    objects: int = 0
    """Number of matched pairs with an object class on both sides."""
    same_object: int = 0
    other_size: int = 0
    """Number of images whose width or height differs."""
    other_count: int = 0
    """Number of images whose number of regions differs."""
    dims: Counter[tuple[int, int]] = field(default_factory=Counter)
    """Number of images by feature channels of A and B."""
    cosine_gaps: LogHistogram = field(default_factory=LogHistogram)
    """Histogram of 1 - cosine of matched features."""
    errors: LogHistogram = field(default_factory=LogHistogram)
    """Histogram of relative errors of matched features."""
    moments_a: Moments = field(default_factory=Moments)
    """Moments of the features of all regions of A."""
    moments_b: Moments = field(default_factory=Moments)
    worst: list[WorstImage] = field(default_factory=list)
    """A heap; `worst_images` is in order."""

    def add(self, pair: ImagePair) -> None:
        """Take in an image."""
        self.images += 1
        a, b = pair.a, pair.b
        self.regions_a += len(a)
        self.regions_b += len(b)
        self.matched += len(pair.boxes)
        self.iou_sum += float(pair.boxes.scores.sum())
        self.dims[a.features.shape[1], b.features.shape[1]] += 1
        self.other_size += (a.width, a.height) != (b.width, b.height)
        self.other_count += len(a) != len(b)
        self.not_finite_a += int((~np.isfinite(a.features).all(axis=1)).sum())
        self.not_finite_b += int((~np.isfinite(b.features).all(axis=1)).sum())
        if pair.same_object is not None:
            self.objects += len(pair.same_object)
            self.same_object += int(pair.same_object.sum())
        if pair.comparable:
            self.compared += len(pair.cosines)
            self.equal += int((pair.cosines >= self.min_cosine).sum())
            self.cosine_sum += float(pair.cosines.sum())
            self.cosine_gaps.add((1 - pair.cosines).clip(min=0))
            self.errors.add(pair.errors)
            self.moments_a.add(a.features)
            self.moments_b.add(b.features)
        self.differing += differs(pair, self.min_cosine)
        self._keep(pair)

    def _keep(self, pair: ImagePair) -> None:
        distance = pair.distance()
        if distance <= 0:
            return
        found = WorstImage(
            distance=distance,
            image_id=pair.image_id,
            row_a=pair.row_a,
            row_b=pair.row_b,
            matched=pair.matched,
            cosine=float(pair.cosines.mean()) if len(pair.cosines) else None,
            regions=(len(pair.a), len(pair.b)),
        )
        if len(self.worst) < self.keep:
            heapq.heappush(self.worst, found)
        else:
            heapq.heappushpop(self.worst, found)

    def worst_images(self) -> list[WorstImage]:
        """Return the most different images, the worst first."""
        return sorted(self.worst, key=lambda it: (-it.distance, it.image_id))

    def share(self, name: str) -> float:
        """Return a fraction: `matched` of all regions, `equal` of compared pairs, `objects` of pairs with classes."""
        over, under = {
            "matched": (2 * self.matched, self.regions_a + self.regions_b),
            "equal": (self.equal, self.compared),
            "objects": (self.same_object, self.objects),
        }[name]
        return over / under if under else 1.0


def differs(pair: ImagePair, min_cosine: float) -> bool:
    """Return whether a region of an image has no match, or a feature is not equal."""
    return pair.matched < 1 or pair.equal(min_cosine) < 1 or not pair.comparable


LIVE = 1e-3
"""Minimum standard deviation of a live channel, as a fraction of the largest of all channels."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """How the distribution of features differs by channel."""

    mean_shift: NDArray[np.float64]
    """[D] mean of B minus mean of A, in standard deviations (of A and B, root mean square)."""
    std_ratio: NDArray[np.float64]
    """[D] standard deviation of B over that of A; 1 for channels that are not live in both sets."""
    live_a: int
    """Number of channels of A that vary; after a ReLU, some are always 0."""
    live_b: int


def drift(a: Moments, b: Moments) -> Drift | None:
    """Return the drift from A to B by channel; None without features to compare."""
    if not a.count or not b.count or len(a.mean) != len(b.mean):
        return None
    std_a, std_b = a.std(), b.std()
    live_a, live_b = (std > LIVE * max(float(std.max()), np.finfo(float).tiny) for std in (std_a, std_b))
    pooled = np.sqrt((std_a**2 + std_b**2) / 2)
    live, both = live_a | live_b, live_a & live_b
    return Drift(
        mean_shift=np.divide(b.mean - a.mean, pooled, out=np.zeros_like(pooled), where=live),
        std_ratio=np.divide(std_b, std_a, out=np.ones_like(std_a), where=both),
        live_a=int(live_a.sum()),
        live_b=int(live_b.sum()),
    )
