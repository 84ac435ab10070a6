"""How much boxes overlap, and how alike features are.

Shapes: N boxes or rows of A, M of B, P pairs, D feature channels.
"""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Float = TypeVar("Float", bound=np.floating[Any])


def box_iou(a_xyxy: NDArray[Any], b_xyxy: NDArray[Any]) -> NDArray[np.float64]:
    """Return the IoU [N, M] of boxes; 1 for boxes that are equal, also where they are empty."""
    a, b = a_xyxy.astype(np.float64), b_xyxy.astype(np.float64)
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    intersection = (high - low).clip(min=0).prod(axis=2)
    union = _areas(a)[:, None] + _areas(b) - intersection
    iou = np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)
    equal = (a[:, None] == b[None]).all(axis=2)
    return np.where(equal, 1.0, np.nan_to_num(iou))


def _areas(boxes_xyxy: NDArray[np.float64]) -> NDArray[np.float64]:
    areas: NDArray[np.float64] = (boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]).clip(min=0).prod(axis=1)
    return areas


def pixel_iou(a_xyxy: NDArray[Float], b_xyxy: NDArray[Float]) -> NDArray[Float]:
    """Return the IoU [..., N, M] of boxes [..., N, 4] and [..., M, 4] whose corners are pixels that belong to them.

    Sides are x2 - x1 + 1 and y2 - y1 + 1 long; corners are in order. Computed in the dtype of the boxes. Source: `iou`
    in refer_expression_dataset.py of facebookresearch/vilbert-multi-task.
    """
    a, b = a_xyxy[..., :, None, :], b_xyxy[..., None, :, :]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]) + 1
    intersection = np.maximum(sides, 0).prod(axis=-1)
    areas_a, areas_b = ((boxes[..., 2:] - boxes[..., :2] + 1).prod(axis=-1) for boxes in (a, b))
    iou: NDArray[Float] = intersection / (areas_a + areas_b - intersection)
    return iou


def cosines(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Return the cosine [P] of rows [P, D]; 0 where a row has a value that is not finite, 1 where both are zero."""
    both_zero = ~a.any(axis=1) & ~b.any(axis=1)
    cosine: NDArray[np.float64] = np.where(both_zero, 1.0, (unit_rows(a) * unit_rows(b)).sum(axis=1))
    return cosine


def unit_rows(features: NDArray[Any]) -> NDArray[np.float64]:
    """Return rows [N, D] of length 1; zeros where a row is zero or has a value that is not finite."""
    rows = features.astype(np.float64)
    rows[~np.isfinite(rows).all(axis=1)] = 0
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: NDArray[np.float64] = rows / np.where(lengths > 0, lengths, 1)
    return unit
