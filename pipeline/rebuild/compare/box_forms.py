"""Systematic differences between the boxes of two sets: a table of tests, each over the boxes of one image.

Shapes: P pairs of corresponding regions, matched by features or by order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_ROWS = 4
"""Minimum number of regions for a test; fewer match many rules by chance."""
FITTING = 0.8
"""Fraction of boxes that must follow a rule; others may be clipped at the border of the image."""
PIXELS = 0.06
"""Allowed deviation from a rule in pixels; published boxes are often rounded to 0.1."""

Boxes = NDArray[np.float64]
Size = tuple[int, int]
"""Width and height of the image."""


def find_form(a_xyxy: NDArray[Any], b_xyxy: NDArray[Any], size: Size) -> tuple[str, str] | None:
    """Return the rule by which B's boxes [P, 4] follow from A's and its parameters; None if no rule does.

    Also None if the boxes are equal.
    """
    a, b = a_xyxy.astype(np.float64), b_xyxy.astype(np.float64)
    if len(a) < MIN_ROWS or not np.isfinite(b).all() or _fits(a, b):
        return None
    for name, rule in _RULES.items():
        figures = rule(a, b, size)
        if figures is not None:
            return name, figures
    return None


def _fits(expected: Boxes, found: Boxes, tolerance: float = PIXELS) -> bool:
    return bool((np.abs(expected - found).max(axis=1) <= tolerance).mean() >= FITTING)


def _shifted(a: Boxes, b: Boxes, size: Size) -> str | None:
    shift = np.median(b - a, axis=0)
    if not _fits(a + shift, b) or np.abs(shift).max() > 2:
        return None
    names = ("x1", "y1", "x2", "y2")
    return ", ".join(f"{name} {by:+.2g}" for name, by in zip(names, shift, strict=True) if abs(by) > PIXELS)


def _scaled(a: Boxes, b: Boxes, size: Size) -> str | None:
    x, y = (_ratio(a[:, axis::2], b[:, axis::2]) for axis in (0, 1))
    scale = np.array([x, y, x, y])
    if not np.isfinite(scale).all() or not _fits(a * scale, b, PIXELS * max(0.5, float(scale.max()))):
        return None
    width, height = size
    if abs(x * width - 1) < 0.01 and abs(y * height - 1) < 0.01:
        # The tolerance in pixels is wide for fractions.
        return "fractions of the width and height of the image" if _fits(a, b / scale) else None
    if abs(x / y - 1) < 0.02:
        return f"by about {(x + y) / 2:.3g}"
    return f"by about {x:.3g} in x and {y:.3g} in y"


def _ratio(a: Boxes, b: Boxes) -> float:
    square = float((a * a).sum())
    return float((a * b).sum()) / square if square else float("nan")


def _width_height(a: Boxes, b: Boxes, size: Size) -> str | None:
    return "x, y, width, height" if _fits(np.hstack([a[:, :2], a[:, 2:] - a[:, :2]]), b) else None


def _rows_first(a: Boxes, b: Boxes, size: Size) -> str | None:
    return "y1, x1, y2, x2" if _fits(a[:, [1, 0, 3, 2]], b) else None


def _whole(a: Boxes, b: Boxes, size: Size) -> str | None:
    for side, boxes in (("A", a), ("B", b)):
        if (boxes == np.rint(boxes)).all() and _fits(a, b, 1.0):
            return f"those of {side}"
    return None


_RULES: dict[str, Callable[[Boxes, Boxes, Size], str | None]] = {
    "boxes-shifted": _shifted,
    "boxes-scaled": _scaled,
    "boxes-xywh": _width_height,
    "boxes-yxyx": _rows_first,
    "boxes-rounded": _whole,
}
