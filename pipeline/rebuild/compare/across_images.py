"""Causes that can be recognised only from several images: features of another image, and batch padding."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.rebuild.compare.causes import Finding
from vilbert.pipeline.rebuild.compare.marks import EXAMPLES
from vilbert.pipeline.rebuild.compare.pair import SAME_ERROR, ImagePair

MAX_MEANS = 4096
"""Number of images whose mean feature is kept; 16 KiB per image with 2048 channels."""


class MeanFeature(NamedTuple):
    """The mean of an image's features, by which the image is recognised."""

    image_id: str
    mean: NDArray[np.float32]


@dataclass(kw_only=True)
class AnotherImage:
    """Detects images of A whose features B has under another image id."""

    images: int = 0
    wanted: list[MeanFeature] = field(default_factory=list)
    """Images of A whose features B does not have under the same id."""
    known: list[MeanFeature] = field(default_factory=list)
    """All images of B."""

    def add(self, pair: ImagePair) -> None:
        """Take in an image."""
        self.images += 1
        if not pair.comparable or len(self.known) >= MAX_MEANS or not len(pair.a) or not len(pair.b):
            return
        self.known.append(MeanFeature(pair.image_id, _mean(pair.b.features)))
        if len(pair.same_features) < 0.5 * min(len(pair.a), len(pair.b)):
            self.wanted.append(MeanFeature(pair.image_id, _mean(pair.a.features)))

    def findings(self) -> list[Finding]:
        """Return the finding, if an image of A was recognised in B."""
        if not self.wanted:
            return []
        means = np.stack([one.mean for one in self.known])
        squares = (means.astype(np.float64) ** 2).sum(axis=1)
        found: list[tuple[str, str]] = []
        for image_id, mean in self.wanted:
            distances = squares - 2 * (means @ mean) + float(mean @ mean)
            nearest = self.known[int(distances.argmin())]
            apart = float(np.linalg.norm(nearest.mean - mean))
            if nearest.image_id != image_id and apart <= SAME_ERROR / 4 * float(np.linalg.norm(mean)):
                found.append((image_id, nearest.image_id))
        if not found:
            return []
        a, b = found[0]
        return [
            Finding(
                cause="features-of-another-image",
                detail=f"B has the features of {a} under {b}" + (", for example" if len(found) > 1 else ""),
                images=len(found),
                of=self.images,
                image_ids=tuple(image_id for image_id, _ in found[:EXAMPLES]),
                figures={"pairs": [list(pair) for pair in found[:EXAMPLES]]},
            )
        ]


def _mean(features: NDArray[np.floating]) -> NDArray[np.float32]:
    rows = features.astype(np.float32)
    mean: NDArray[np.float32] = np.nan_to_num(rows, posinf=0, neginf=0).mean(axis=0)
    return mean


EQUAL_ERROR, OTHER_ERROR = 2e-3, 5e-3
"""Median relative error below which padding did not change an image, and above which it did."""
MIN_SLOPE_DIFFERENCE = 0.25
"""Minimum difference between the correlations of the error with nearness to the padded and to the other edges."""
MIN_REGIONS = 20


@dataclass(kw_only=True)
class Padding:
    """Detects errors that grow towards the right and bottom edges in some images but not in others."""

    equal: int = 0
    """Images without differences."""
    image_ids: list[str] = field(default_factory=list)
    """The first images with differences."""
    differing: int = 0
    _sums: NDArray[np.float64] = field(default_factory=lambda: np.zeros((4, 4)))
    """Sums of products of (1, nearness to right or bottom, nearness to left or top, log10 of the error)."""

    def add(self, pair: ImagePair) -> None:
        """Take in an image."""
        if not len(pair.errors) or pair.matched < 0.9 or pair.boxes.scores.mean() < 0.9:
            return
        errors = np.minimum(pair.errors, 1.0)
        median = float(np.median(errors))
        if median <= EQUAL_ERROR and float(errors.max()) <= OTHER_ERROR:
            self.equal += 1
            return
        self.differing += 1
        if len(self.image_ids) < EXAMPLES:
            self.image_ids.append(pair.image_id)
        boxes = pair.a.boxes[pair.boxes.a] / np.array([pair.a.width, pair.a.height] * 2, np.float32)
        padded_edge = np.maximum(boxes[:, 2], boxes[:, 3])
        other_edge = 1 - np.minimum(boxes[:, 0], boxes[:, 1])
        rows = np.stack([np.ones(len(errors)), padded_edge, other_edge, np.log10(errors + 1e-5)])
        self._sums += rows @ rows.T

    def correlations(self) -> tuple[float, float]:
        """Return the correlation of the error with the nearness to the right or bottom, and to the left or top."""
        count = self._sums[0, 0]
        if count < MIN_REGIONS:
            return 0.0, 0.0
        means = self._sums[0] / count
        covariance = self._sums / count - np.outer(means, means)
        deviations = np.sqrt(np.maximum(np.diag(covariance), 1e-12))
        padded, other = covariance[3, 1:3] / (deviations[3] * deviations[1:3])
        return float(padded), float(other)

    def findings(self) -> list[Finding]:
        """Return the finding, if the errors have this pattern."""
        padded, other = self.correlations()
        if not self.equal or not self.differing or padded - other < MIN_SLOPE_DIFFERENCE or padded <= 0:
            return []
        return [
            Finding(
                cause="batch-padding",
                detail=f"{self.equal:,} images are equal; in the others errors grow towards the right and bottom "
                f"(correlation {padded:.2f}, towards the left and top {other:.2f})",
                images=self.differing,
                of=self.equal + self.differing,
                image_ids=tuple(self.image_ids),
            )
        ]
