"""Overlaps and cosines of known boxes and features, empty and infinite ones included."""

from __future__ import annotations

import numpy as np

from vilbert.extractors.agreement import box_iou, cosines


def test_iou_of_known_boxes() -> None:
    first = np.array([[0, 0, 10, 10], [3, 3, 3, 3]], np.float32)
    second = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 30, 30], [3, 3, 3, 3]], np.float32)
    assert box_iou(first, second).tolist() == [[1, 1 / 3, 0, 0], [0, 0, 0, 1]]


def test_cosines_of_known_rows() -> None:
    a = np.array([[1, 0], [3, 4], [0, 0], [0, 0], [np.inf, 1]], np.float32)
    b = np.array([[0, 2], [6, 8], [0, 0], [1, 0], [1, 1]], np.float32)
    np.testing.assert_allclose(cosines(a, b), [0, 1, 1, 0, 0])
