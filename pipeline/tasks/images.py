"""Lay out the regions of images for a task: those of the detector, and optionally those at given boxes.

Shapes: C images, R maximum number of regions (at least 1), D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.shards.small_features import SmallFeatures
from vilbert.pipeline.tasks.join import Images
from vilbert.pipeline.tasks.task import Shown
from vilbert.pipeline.train.data.example import Example
from vilbert.pipeline.train.data.feature_rows import FeaturePart, FeatureRows
from vilbert.pipeline.train.examples.region_layout import lay_out_regions, spread


class RegionRows(NamedTuple):
    """A batch of images; padding is 0."""

    features: FeatureRows
    """[C, R, D]."""
    weights: NDArray[np.float32]
    """[C, R], weight of each region in the feature of the whole image."""
    locations: NDArray[np.float32]
    """[C, R, 5], x1, y1, x2, y2 and area as fractions of the image."""
    mask: NDArray[np.int64]
    """[C, R], 1 for regions, 0 for padding; an unreadable image has one region of zeros."""


def read_images(
    images: Images,
    given: Images | None,
    image_ids: Sequence[str],
    *,
    max_regions: int,
    averaged: bool = False,
) -> list[Shown | None]:
    """Read images with at most `max_regions` regions each: all given boxes, and as many detected regions as fit.

    Args:
        images: The images with the detector's regions.
        given: The same images with regions at given boxes.
        image_ids: Ids of the images.
        max_regions: Maximum number of regions per image.
        averaged: Whether regions at given boxes contribute to the feature of the whole image.

    Returns:
        One entry per image; None if it cannot be read from both.
    """
    detected = images.read(image_ids)
    boxed = [None] * len(image_ids) if given is None else given.read(image_ids)
    return [
        None
        if found is None or (given is not None and at_boxes is None)
        else _show(found, at_boxes, max_regions, averaged=averaged)
        for found, at_boxes in zip(detected, boxed, strict=True)
    ]


def _show(found: Example, at_boxes: Example | None, max_regions: int, *, averaged: bool) -> Shown:
    given = 0 if at_boxes is None else min(len(at_boxes.boxes), max_regions)
    detected = min(len(found.boxes), max_regions - given)
    parts = [(found, detected)] if at_boxes is None else [(found, detected), (at_boxes, given)]
    return Shown(
        image_id=found.image_id,
        width=found.width,
        height=found.height,
        boxes=np.concatenate([part.boxes[:count] for part, count in parts]),
        features=_first_features(parts),
        weights=mean_weights(detected, given, averaged=averaged),
    )


def _first_features(parts: Sequence[tuple[Example, int]]) -> FeaturePart:
    """Return the features of the first regions of each part [R, D]: float16, or codes for one part of codes."""
    found, count = parts[0]
    if len(parts) == len(found.feature_parts) == 1 and isinstance(small := found.feature_parts[0], SmallFeatures):
        return small.rows(slice(count))
    channels, start = sum(part.shape[1] for part in found.feature_parts), 0
    features = np.empty((sum(count for _, count in parts), channels), np.float16)
    for example, count in parts:
        example.copy_features(features[start : start + count])
        start += count
    return features


def mean_weights(detected: int, given: int = 0, *, averaged: bool = False) -> NDArray[np.float32]:
    """Return the weight of each region in the feature of the whole image, float32 [detected + given].

    The feature is the mean of the detector's regions. With `averaged` it also includes the mean of the regions at given
    boxes; the two means are weighted by their number of regions plus one. If only one kind exists, it is the mean of
    that kind. Source: `refer_expression_dataset.py` and `vcr_dataset.py` of jiasenlu/vilbert_beta.
    """
    parts = [detected and detected + 1, given and given + 1]
    if detected and not averaged:
        parts[1] = 0
    shares = [part / max(sum(parts), 1) / max(count, 1) for part, count in zip(parts, (detected, given), strict=True)]
    return np.repeat(np.array(shares, dtype=np.float32), (detected, given))


def lay_out(shown: Sequence[Shown | None], *, feature_dim: int, max_regions: int) -> RegionRows:
    """Lay out images as one batch; None becomes an image with one region of zeros, because attention needs an input."""
    counts = np.array([len(image.boxes) if image else 0 for image in shown], dtype=np.int64)
    layout = lay_out_regions(
        shown,
        [(image.features,) if image else () for image in shown],
        counts,
        channels=feature_dim,
        max_regions=max_regions,
        width=max(int(counts.max(initial=0)), 1),
    )
    weights = spread(layout.present, [image.weights[:, None] for image in shown if image], np.float32, 1)[..., 0]
    return RegionRows(layout.features, weights, layout.locations, layout.mask)
