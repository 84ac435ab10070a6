"""Suppression: which boxes overlap, and that PyTorch and NumPy compute the same confidences."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vilbert.extractors import suppression
from vilbert.extractors.suppression import (
    confidence_above,
    confidence_above_torch,
    neighbours_of,
    overlapping,
    overlapping_torch,
)

from .test_selection import crowded, detections, literal_iou

F32 = np.float32


def test_iou_has_no_plus_one() -> None:
    boxes = np.float32([[0, 0, 10, 10], [0, 5, 10, 15]])  # IoU 1/3; with + 1 it is 66/176 = 0.375
    assert overlapping(boxes, 0.33).any()
    assert not overlapping(boxes, 0.34).any()


@given(detections(), st.sampled_from([0.0, 0.25, 0.3, 1 / 3, 0.5, 1.0]))
def test_torch_finds_the_same_pairs_overlapping(found: tuple[np.ndarray, np.ndarray], threshold: float) -> None:
    boxes = found[0]
    np.testing.assert_array_equal(overlapping_torch(torch.from_numpy(boxes), threshold), overlapping(boxes, threshold))


def test_torch_finds_the_same_pairs_overlapping_to_the_last_bit() -> None:
    generator = np.random.default_rng(0)
    low = generator.random((600, 2), F32) * 500
    boxes = np.concatenate([low, low + generator.random((600, 2), F32) * 200], axis=1)
    iou = [literal_iou(boxes[0], boxes[j]) for j in range(1, 600)]
    for threshold in (0.3, *sorted({float(value) for value in iou if value > 0})[:20]):  # where a last bit decides
        pairs = overlapping_torch(torch.from_numpy(boxes), threshold)
        np.testing.assert_array_equal(pairs, overlapping(boxes, threshold))


@given(
    detections(),
    st.sampled_from([0.0, 0.2, 0.35, 0.5, 1.0]),
    st.sampled_from([0.0, 0.1, 0.25, 1 / 3, 0.5, 1.0]),
)
def test_torch_computes_the_same_confidences(
    found: tuple[np.ndarray, np.ndarray], floor: float, threshold: float
) -> None:
    boxes, probs = found
    neighbours = neighbours_of(overlapping_torch(torch.from_numpy(boxes), threshold))
    np.testing.assert_array_equal(
        confidence_above_torch(neighbours, torch.from_numpy(probs), floor),
        confidence_above(overlapping(boxes, threshold), probs, floor),
    )


@pytest.mark.parametrize("floor", [0.0, 0.01, 0.2])
@pytest.mark.parametrize("sharpness", [0.0, 1.0, 4.0])
def test_torch_computes_the_same_confidences_of_crowded_boxes_in_several_chunks(
    floor: float, sharpness: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suppression, "CLASSES_AT_ONCE", 7)
    boxes, probs = crowded(seed=3, proposals=150, classes=40, sharpness=sharpness)
    np.testing.assert_array_equal(
        confidence_above_torch(neighbours_of(overlapping_torch(boxes, 0.3)), probs, floor),
        confidence_above(overlapping(boxes.numpy(), 0.3), probs.numpy(), floor),
    )


def test_a_long_chain_of_suppressions_is_followed_to_its_end() -> None:
    """Each box overlaps the next one: every other one survives, which is decided one link a round."""
    left = torch.arange(101, dtype=torch.float32) * 4
    boxes = torch.stack([left, left * 0, left + 7, left * 0 + 10], dim=1)
    scores = torch.linspace(0.9, 0.3, 101)
    probs = torch.stack([1 - scores, scores], dim=1)
    found = confidence_above_torch(neighbours_of(overlapping_torch(boxes, 0.2)), probs, 0.1)
    np.testing.assert_array_equal(found, np.where(np.arange(101) % 2 == 0, scores.numpy(), F32(0)))
