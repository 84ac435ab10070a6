"""Boxes of referring expressions: their IoU as in ViLBERT, and the targets derived from it.

The corners of a box are pixels that belong to it (`pixel_iou`). The published code computes in float32. Shapes: N
boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vilbert.extractors.agreement import pixel_iou

THRESHOLD = 0.5
"""A region's target is its IoU from this value on; a region is correct above it."""


def iou(boxes_xyxy: ArrayLike, box: Sequence[float] | NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the intersection over union (IoU) of each box with one box.

    Args:
        boxes_xyxy: [N, 4] pixels of any type, x1 <= x2 and y1 <= y2; computed in float64.
        box: [4].

    Returns:
        float64 [N] in [0, 1].
    """
    boxes, one = (np.asarray(them, dtype=np.float64).reshape(-1, 4) for them in (boxes_xyxy, box))
    return pixel_iou(boxes, one)[:, 0]


def soft_targets(boxes_xyxy: ArrayLike, box: Sequence[float] | NDArray[np.floating]) -> NDArray[np.float32]:
    """Return the target score of each region, float32 [N]: its IoU if it is at least 0.5, else 0."""
    overlap = iou(boxes_xyxy, box)
    return np.where(overlap >= THRESHOLD, overlap, 0).astype(np.float32)


def is_right(boxes_xyxy: ArrayLike, box: Sequence[float] | NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return whether each box is correct, bool [N]: its IoU is above 0.5."""
    return iou(boxes_xyxy, box) > THRESHOLD
