"""Causes that can be recognised without a detector: a table of tests, each applied to one image at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.rebuild.compare.box_forms import find_form
from vilbert.pipeline.rebuild.compare.causes import CAUSES, Finding
from vilbert.pipeline.rebuild.compare.matching import Matching
from vilbert.pipeline.rebuild.compare.pair import SAME_COSINE, ImagePair

Sighting = tuple[str, str]
"""Name of a cause and its values as text."""

MOST = 0.8
"""Fraction of an image's regions that must show a difference."""
FLOAT16_MAX = 65504.0
MANTISSA_BITS = {"bfloat16": 7, "float16": 10}
"""Stored bits of the mantissa by dtype; float32 has 23."""
EXAMPLES = 5
"""Maximum number of image ids in a finding."""

LEAST_SHARE = {
    "boxes-regressed": 0.5,
    "rows-reordered": 0.5,
    "rounded-float16": 0.5,
    "rounded-bfloat16": 0.5,
    "computed-in-bfloat16": 0.5,
    "object-ids-shifted": 0.5,
}
"""Minimum fraction of images for tests that can match one image by chance; other tests need a single image."""


def box_form(pair: ImagePair) -> Sighting | None:
    """Detect boxes that follow from the other set's boxes by a rule."""
    size = (pair.a.width, pair.a.height)
    for pairs in (pair.same_features, pair.boxes, _by_row(pair)):
        if _covers(pairs, pair) and (found := find_form(pair.a.boxes[pairs.a], pair.b.boxes[pairs.b], size)):
            return found
    return None


def regressed(pair: ImagePair) -> Sighting | None:
    """Detect boxes with individual differences although the features are equal."""
    pairs = pair.same_features
    same_places = _covers(pair.boxes, pair) and pair.boxes.scores.mean() > 0.995
    if not _covers(pairs, pair) or len(pairs) < 4 or same_places:
        return None
    a, b = pair.a.boxes[pairs.a], pair.b.boxes[pairs.b]
    moved = np.abs(a - b).max(axis=1)
    if (moved > 0.5).mean() < 0.5 or find_form(a, b, (pair.a.width, pair.a.height)):
        return None
    return "boxes-regressed", ""


def order(pair: ImagePair) -> Sighting | None:
    """Detect regions in another order, and features that belong to other boxes of the image."""
    pairs, boxes = pair.same_features, pair.boxes
    if len(boxes) < 2 or not _covers(boxes, pair) or boxes.scores.mean() < 0.95:
        return None
    if np.array_equal(boxes.a, boxes.b) and pair.comparable and pair.equal(0.999) == 1:
        return None
    if _covers(pairs, pair, 0.9):
        place_of = dict(zip(boxes.a.tolist(), boxes.b.tolist(), strict=True))
        elsewhere = [place_of.get(a, b) != b for a, b in zip(pairs.a.tolist(), pairs.b.tolist(), strict=True)]
        apart = pair.cosines[np.isin(boxes.a, pairs.a[elsewhere])]
        if np.mean(elsewhere) > 0.1 and (apart < 0.9999).any():
            return "features-shuffled", ""
    in_order = bool((np.diff(boxes.b) > 0).all())
    same = pair.comparable and pair.matched == 1 and pair.equal(SAME_COSINE) == 1
    return ("rows-reordered", "") if same and not in_order else None


def overflow(pair: ImagePair) -> Sighting | None:
    """Detect values that are infinite, or clipped at the limit of float16, in one set only."""
    bad = [name for name, regions in (("A", pair.a), ("B", pair.b)) if _overflowed(regions.features)]
    if len(bad) != 1:
        return None
    return "float16-overflow", f"values of {bad[0]} that are infinite, NaN or at the limit of float16"


def _overflowed(features: NDArray[np.floating]) -> bool:
    values = features.astype(np.float32)
    return bool((~np.isfinite(values) | (np.abs(values) == FLOAT16_MAX)).any())


def rounding(pair: ImagePair) -> Sighting | None:
    """Detect values of one set that have fewer bits than those of the other."""
    if not len(pair.cosines) or np.array_equal(*pair.matched_features):
        return None
    a, b = pair.matched_features
    finite = np.isfinite(a) & np.isfinite(b) & (a != 0)
    bits_a, bits_b = _bits(a[finite]), _bits(b[finite])
    if bits_a == bits_b or finite.sum() < 64:
        return None
    side, (coarse, fine) = ("A", (a, b)) if bits_a < bits_b else ("B", (b, a))
    bits = min(bits_a, bits_b)
    bound = np.abs(fine[finite]) * 2.0 ** -(bits + 1) * 1.01 + 2.0**-25  # the last term: float16's smallest values
    within = (np.abs(coarse[finite] - fine[finite]) <= bound).mean()
    name = next(name for name, count in MANTISSA_BITS.items() if count == bits)
    if within > 0.999:
        return f"rounded-{name}", f"the features of {side}"
    if name == "bfloat16" and np.median(pair.cosines) > 0.99:
        return "computed-in-bfloat16", f"the features of {side}"
    return None


def _bits(values: NDArray[np.float32]) -> int:
    """Return the number of mantissa bits that float32 values use: that of a type of `MANTISSA_BITS`, or 23."""
    patterns = np.ascontiguousarray(values, np.float32).view(np.uint32)
    used = int(np.bitwise_or.reduce(patterns)) if patterns.size else 0
    return next((bits for bits in MANTISSA_BITS.values() if not used & ((1 << (23 - bits)) - 1)), 23)


def object_ids(pair: ImagePair) -> Sighting | None:
    """Detect object class ids that differ by a constant."""
    if pair.object_ids is None or pair.same_object is None or len(pair.same_object) < 4 or pair.same_object.any():
        return None
    if len(np.unique(pair.object_ids[0])) == 1 and pair.equal(SAME_COSINE) < 0.5:
        return None  # another detector, which finds one other class everywhere
    apart = np.unique(pair.object_ids[1] - pair.object_ids[0])
    return ("object-ids-shifted", f"ids of B are those of A {int(apart[0]):+d}") if len(apart) == 1 else None


def dimension(pair: ImagePair) -> Sighting | None:
    """Detect features with different numbers of channels."""
    if pair.comparable:
        return None
    return "other-dimension", f"{pair.a.features.shape[1]} channels in A, {pair.b.features.shape[1]} in B"


MARKS: tuple[Callable[[ImagePair], Sighting | None], ...] = (
    dimension,
    box_form,
    regressed,
    order,
    overflow,
    rounding,
    object_ids,
)


def _covers(pairs: Matching, pair: ImagePair, share: float = MOST) -> bool:
    return len(pairs) > 0 and len(pairs) >= share * min(len(pair.a), len(pair.b))


def _by_row(pair: ImagePair) -> Matching:
    rows = np.arange(len(pair.a) if len(pair.a) == len(pair.b) else 0)
    return Matching(rows, rows, np.ones(len(rows)))


@dataclass(kw_only=True)
class Sightings:
    """Causes found in the images so far."""

    images: int = 0
    details: dict[str, Counter[str]] = field(default_factory=dict)
    """Number of images by cause and values. Only the first few values of a cause are kept separately."""
    image_ids: dict[str, list[str]] = field(default_factory=dict)
    """The first images of each cause."""

    def add(self, pair: ImagePair) -> bool:
        """Apply all tests to an image and return whether a problem was found."""
        self.images += 1
        problem = False
        for mark in MARKS:
            if found := mark(pair):
                cause, figures = found
                counts = self.details.setdefault(cause, Counter())
                counts[figures if figures in counts or len(counts) < 100 else ""] += 1
                examples = self.image_ids.setdefault(cause, [])
                if len(examples) < EXAMPLES:
                    examples.append(pair.image_id)
                problem = problem or CAUSES[cause].problem
        return problem

    def findings(self) -> list[Finding]:
        """Return the causes found in enough images, in the order of the table."""
        found = []
        for cause, counts in self.details.items():
            seen = counts.total()
            if seen < max(1.0, LEAST_SHARE.get(cause, 0.0) * self.images):
                continue
            (common, times), *others = counts.most_common()
            detail = common if not others or times > seen / 2 else f"for example {common}"
            found.append(
                Finding(
                    cause=cause,
                    detail=detail,
                    images=seen,
                    of=self.images,
                    image_ids=tuple(self.image_ids[cause]),
                )
            )
        return found
