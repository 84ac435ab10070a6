"""Statistics of the boxes of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.rebuild.scores.score import Scored

DIGITS = 6


class BoxScore:
    """Number of boxes, their scores, the fraction of the image that they cover, and the entropy of their classes."""

    needs_images = False
    uses_model = False
    fields = ("boxes", "score_mean", "score_max", "coverage", "objects", "object_entropy")

    def __init__(self, settings: object) -> None:
        """Accept the settings of the command, which are not used."""

    def fingerprint(self) -> dict[str, Any]:
        """Return the version of the method."""
        return {"version": 1}

    def score(self, samples: Sequence[Scored]) -> list[dict[str, Any]]:
        """Return the fields of each sample."""
        return [_fields(sample) for sample in samples]


def _fields(sample: Scored) -> dict[str, Any]:
    found: dict[str, Any] = {
        "boxes": len(sample.boxes),
        "coverage": round(coverage(sample.boxes, sample.width, sample.height), DIGITS),
    }
    if sample.object_scores is not None and len(sample.object_scores):
        scores = np.nan_to_num(sample.object_scores.astype(np.float64))
        found |= {"score_mean": round(float(scores.mean()), DIGITS), "score_max": round(float(scores.max()), DIGITS)}
    if sample.object_ids is not None:
        counts = np.unique(sample.object_ids, return_counts=True)[1]
        found |= {"objects": len(counts), "object_entropy": round(entropy(counts), DIGITS)}
    return found


def coverage(boxes_xyxy: NDArray[np.float32], width: int, height: int) -> float:
    """Return the fraction of an image's area that is covered by at least one box.

    Args:
        boxes_xyxy: [N, 4] in pixels; parts outside the image do not count.
        width: Pixels of the image.
        height: Pixels of the image.
    """
    boxes = np.nan_to_num(boxes_xyxy.astype(np.float64)).reshape(-1, 4)
    x1, x2 = (np.clip(boxes[:, side], 0, width) for side in (0, 2))
    y1, y2 = (np.clip(boxes[:, side], 0, height) for side in (1, 3))
    # The edges of all boxes cut the image into cells, each of which is covered as a whole or not at all.
    xs, ys = np.unique(np.concatenate([x1, x2])), np.unique(np.concatenate([y1, y2]))
    covered = np.zeros((max(len(ys) - 1, 0), max(len(xs) - 1, 0)), bool)
    columns = np.searchsorted(xs, x1), np.searchsorted(xs, x2)
    rows = np.searchsorted(ys, y1), np.searchsorted(ys, y2)
    for top, bottom, left, right in zip(*rows, *columns, strict=True):
        covered[top:bottom, left:right] = True
    area = np.diff(ys) @ covered @ np.diff(xs) if covered.size else 0.0
    return float(area) / (width * height)


def entropy(counts: NDArray[np.int64]) -> float:
    """Return the Shannon entropy, in bits, of a distribution given by counts; 0 for one class or none."""
    total = int(counts.sum())
    return float(sum(-count / total * math.log2(count / total) for count in counts.tolist()) + 0.0)
