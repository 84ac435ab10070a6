"""Boxes of referring expressions: overlaps as ViLBERT measures them, and what is learnt from them.

A box's corners are pixels that belong to it (`pixel_iou`). The published code computes in float32. Shapes: N boxes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vilbert.extractors.agreement import pixel_iou

THRESHOLD = 0.5
"""A region learns its overlap from here on, and is right above it."""


def iou(boxes_xyxy: ArrayLike, box: Sequence[float] | NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the overlap of each box with one, intersection over union, float64 [N] in [0, 1].

    boxes_xyxy: [N, 4] pixels, of any type; computed in float64. box: [4]. Corners are in order, x1 <= x2 and y1 <= y2.
    """
    boxes, one = (np.asarray(them, dtype=np.float64).reshape(-1, 4) for them in (boxes_xyxy, box))
    return pixel_iou(boxes, one)[:, 0]


def soft_targets(boxes_xyxy: ArrayLike, box: Sequence[float] | NDArray[np.floating]) -> NDArray[np.float32]:
    """Return what each region learns to score, float32 [N]: its overlap where that is one half or more, else 0."""
    overlap = iou(boxes_xyxy, box)
    return np.where(overlap >= THRESHOLD, overlap, 0).astype(np.float32)


def is_right(boxes_xyxy: ArrayLike, box: Sequence[float] | NDArray[np.floating]) -> NDArray[np.bool_]:
    """Return whether each box counts as the one referred to, bool [N]: it overlaps by more than one half."""
    return iou(boxes_xyxy, box) > THRESHOLD
