"""One image in both sets: matched regions and the distances of their features.

Shapes: N regions of A, M regions of B, P matched pairs, D feature channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from vilbert.extractors.agreement import cosines
from vilbert.extractors.regions import Regions
from vilbert.pipeline.rebuild.compare.matching import (
    Matching,
    match_boxes,
    match_features,
    relative_errors,
)

SAME_COSINE = 0.9999
"""Minimum cosine at which two features count as the same except for rounding. Features of different regions of an image
reach 0.99 with some detectors."""
SAME_ERROR = 0.02
"""Maximum relative error at which two features count as the same."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ImagePair:
    """The regions of one image in both sets."""

    image_id: str
    a: Regions
    b: Regions
    row_a: int
    """Row of the sample in A; for a detector, the row in the other set."""
    row_b: int
    """Row of the sample in B."""
    min_iou: float
    """Minimum IoU of matched boxes."""
    names: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """Class names of A and B by id; empty if a set has no names."""

    @cached_property
    def boxes(self) -> Matching:
        """Regions matched by their boxes."""
        return match_boxes(self.a.boxes, self.b.boxes, self.min_iou)

    @property
    def comparable(self) -> bool:
        """Whether the features have the same number of channels."""
        return bool(self.a.features.shape[1] == self.b.features.shape[1])

    @cached_property
    def matched_features(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Features [P, D] of the matched regions of A and B."""
        a, b = self.a.features[self.boxes.a], self.b.features[self.boxes.b]
        return a.astype(np.float32), b.astype(np.float32)

    @cached_property
    def cosines(self) -> NDArray[np.float64]:
        """Cosines [P] of matched features; empty if the channels differ."""
        return cosines(*self.matched_features) if self.comparable else np.empty(0)

    @cached_property
    def errors(self) -> NDArray[np.float64]:
        """Relative errors [P] of matched features; empty if the channels differ."""
        return relative_errors(*self.matched_features) if self.comparable else np.empty(0)

    @cached_property
    def same_features(self) -> Matching:
        """Regions matched by their features only: those whose features are equal except for rounding."""
        if not self.comparable:
            return Matching(np.empty(0, np.intp), np.empty(0, np.intp), np.empty(0))
        found = match_features(self.a.features, self.b.features, SAME_COSINE)
        close = relative_errors(self.a.features[found.a], self.b.features[found.b]) <= SAME_ERROR
        return Matching(found.a[close], found.b[close], found.scores[close])

    @cached_property
    def object_ids(self) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
        """Object classes [P] of the matched regions of A and B; None if a set has none."""
        if self.a.object_ids is None or self.b.object_ids is None:
            return None
        return self.a.object_ids[self.boxes.a].astype(np.int64), self.b.object_ids[self.boxes.b].astype(np.int64)

    @cached_property
    def same_object(self) -> NDArray[np.bool_] | None:
        """Whether matched regions [P] have the same object class, by name if both sets have names."""
        if self.object_ids is None:
            return None
        names_a, names_b = self.names
        if names_a == names_b or not (_named(names_a) and _named(names_b)):
            return np.equal(*self.object_ids)
        pairs = zip(*(ids.tolist() for ids in self.object_ids), strict=True)
        return np.array([_name(names_a, a) == _name(names_b, b) for a, b in pairs], bool)

    @property
    def regions(self) -> int:
        """Number of regions of A and B together."""
        return len(self.a) + len(self.b)

    @property
    def matched(self) -> float:
        """Fraction of the regions of A and B that have a match; 1 if neither has regions."""
        return 2 * len(self.boxes) / self.regions if self.regions else 1.0

    def equal(self, min_cosine: float) -> float:
        """Return the fraction of matched regions whose features are equal; 1 without matches."""
        return float((self.cosines >= min_cosine).mean()) if len(self.cosines) else 1.0

    def distance(self) -> float:
        """Return how different the image is: the mean of 1 - cosine; a region without a match counts as 1."""
        if not self.regions:
            return 0.0
        apart = float((1 - self.cosines).sum()) if self.comparable else 0.0
        return (2 * apart + self.regions - 2 * len(self.boxes)) / self.regions


def _name(names: tuple[str, ...], index: int) -> str:
    return names[index].strip().lower() if index < len(names) else f"class {index}"


def _named(names: tuple[str, ...]) -> bool:
    """Return whether class names contain more than the number of the class."""
    return any(not name.removeprefix("class").strip(" _").isdigit() for name in names[1:])
