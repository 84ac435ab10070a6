"""Match the regions of two sets.

Shapes: N regions of A, M regions of B, P matched pairs, D feature channels.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.extractors.agreement import box_iou, unit_rows


class Matching(NamedTuple):
    """Pairs of regions, in the order of A."""

    a: NDArray[np.intp]
    """[P] indices of A's regions, ascending."""
    b: NDArray[np.intp]
    """[P] indices of B's regions."""
    scores: NDArray[np.float64]
    """[P] IoU or cosine."""

    def __len__(self) -> int:
        return len(self.a)


def mutual_best(scores: NDArray[np.float64], threshold: float) -> Matching:
    """Return mutual best pairs, then those among the remaining regions, until none is left.

    Args:
        scores: [N, M], higher is better.
        threshold: Pairs with a lower score are excluded.

    Ties are resolved by the lower index, so that two copies of the same set match row by row.
    """
    left = np.where(scores >= threshold, scores, -np.inf)
    found_a: list[NDArray[np.intp]] = []
    found_b: list[NDArray[np.intp]] = []
    while left.size and np.isfinite(left).any():
        best_b, best_a = left.argmax(axis=1), left.argmax(axis=0)
        rows = np.flatnonzero((best_a[best_b] == np.arange(len(left))) & np.isfinite(left.max(axis=1)))
        found_a.append(rows)
        found_b.append(best_b[rows])
        left[rows] = -np.inf
        left[:, best_b[rows]] = -np.inf
    a = np.concatenate([*found_a, np.empty(0, np.intp)])
    b = np.concatenate([*found_b, np.empty(0, np.intp)])
    order = np.argsort(a)
    a, b = a[order], b[order]
    return Matching(a, b, scores[a, b])


def match_boxes(a_xyxy: NDArray[Any], b_xyxy: NDArray[Any], min_iou: float) -> Matching:
    """Match boxes [N, 4] and [M, 4] by IoU, mutual best."""
    return mutual_best(box_iou(a_xyxy, b_xyxy), min_iou)


def match_features(a: NDArray[Any], b: NDArray[Any], min_cosine: float) -> Matching:
    """Match features [N, D] and [M, D] by cosine, mutual best."""
    return mutual_best(unit_rows(a) @ unit_rows(b).T, min_cosine)


def relative_errors(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Return |a - b| / |a| [P] of rows [P, D] in Euclidean norm; inf if a row has a value that is not finite."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    finite = np.isfinite(a).all(axis=1) & np.isfinite(b).all(axis=1)
    a, b = a[finite], b[finite]
    lengths = np.linalg.norm(a, axis=1)
    distances = np.linalg.norm(a - b, axis=1)
    errors = np.full(len(finite), np.inf)
    errors[finite] = np.where(distances > 0, distances / np.where(lengths > 0, lengths, np.finfo(float).tiny), 0)
    return errors
