"""The vectorised selection against the published rule, written out as loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torchvision.ops import nms

from vilbert.extractors.selection import SelectionSettings, select

F32 = np.float32


def literal_iou(a: np.ndarray, b: np.ndarray) -> np.float32:
    width = max(F32(0), min(a[2], b[2]) - max(a[0], b[0]))
    height = max(F32(0), min(a[3], b[3]) - max(a[1], b[1]))
    intersection = width * height
    area_a, area_b = (a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1])
    with np.errstate(invalid="ignore"):
        return intersection / (area_a + area_b - intersection)


def literal_nms(boxes: np.ndarray, scores: np.ndarray, threshold: float) -> list[int]:
    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if not any(float(literal_iou(boxes[i], boxes[j])) > threshold for j in kept):
            kept.append(i)
    return kept


def literal_select(boxes: np.ndarray, probs: np.ndarray, wanted: SelectionSettings) -> list[int]:
    """generate_tsv.py of bottom-up-attention, with its limits and, of equals, the earlier proposal first."""
    confidence = np.zeros(len(boxes), F32)
    for column in range(1, probs.shape[1]):
        for i in literal_nms(boxes, probs[:, column], wanted.nms):
            confidence[i] = max(confidence[i], probs[i, column])
    best_first = sorted(range(len(boxes)), key=lambda i: (-confidence[i], i))
    if wanted.selection == "topk":
        return best_first[: wanted.max_boxes]
    keep = [i for i in range(len(boxes)) if confidence[i] >= F32(wanted.confidence)]
    if len(keep) < wanted.min_boxes:
        return best_first[: wanted.min_boxes]
    if len(keep) > wanted.max_boxes:
        return best_first[: wanted.max_boxes]
    return keep


@st.composite
def detections(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Boxes on a coarse grid, so that overlaps hit thresholds and boxes repeat or are empty, and tied scores."""
    proposals, classes = draw(st.integers(0, 14)), draw(st.integers(1, 5))
    corner = hnp.arrays(np.int64, (proposals, 2), elements=st.integers(0, 8))
    low, size = draw(corner), draw(corner)
    boxes = np.concatenate([low, low + size], axis=1).astype(F32)
    tenths = hnp.arrays(np.int64, (proposals, classes + 1), elements=st.integers(0, 10))
    return boxes, draw(tenths).astype(F32) / F32(10)


@given(
    detections(),
    st.sampled_from(["1", "2-5", "3", "5-9", "1-12", "12"]),
    st.sampled_from(["butd", "topk"]),
    st.sampled_from([0.0, 0.2, 0.35, 0.5, 0.9, 1.0]),
    st.sampled_from([0.0, 0.1, 0.25, 0.3, 1 / 3, 0.5, 0.7, 1.0]),
)
def test_equals_the_literal_rule(
    detected: tuple[np.ndarray, np.ndarray], boxes: str, selection: str, confidence: float, threshold: float
) -> None:
    wanted = SelectionSettings(boxes=boxes, selection=selection, confidence=confidence, nms=threshold)
    boxes_xyxy, probs = detected
    got = select(torch.from_numpy(boxes_xyxy), torch.from_numpy(probs), wanted)
    assert got.tolist() == literal_select(boxes_xyxy, probs, wanted)


def crowded(seed: int, proposals: int, classes: int, sharpness: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Proposals on top of each other, and a softmax; a sharpness of 0 makes every class of every proposal equal."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(proposals, 2, generator=generator) * torch.tensor([500.0, 350.0])
    size = torch.rand(proposals, 2, generator=generator) ** 2 * 300 + 8
    logits = torch.randn(proposals, classes + 1, generator=generator) * sharpness
    return torch.cat([low, low + size], dim=1), logits.softmax(dim=1)


def per_class_nms(boxes: torch.Tensor, probs: torch.Tensor, threshold: float) -> torch.Tensor:
    confidence = torch.zeros(len(probs))
    for column in range(1, probs.shape[1]):
        kept = nms(boxes, probs[:, column], threshold)
        confidence[kept] = torch.maximum(confidence[kept], probs[kept, column])
    return confidence


@pytest.mark.parametrize("boxes", ["36", "10-100", "100"])
@pytest.mark.parametrize("sharpness", [0.0, 0.05, 1.0, 2.0, 4.0])
def test_equals_torchvision_nms_per_class_at_full_size(boxes: str, sharpness: float) -> None:
    wanted = SelectionSettings(boxes=boxes)
    proposals, probs = crowded(seed=7, proposals=300, classes=200, sharpness=sharpness)
    confidence = per_class_nms(proposals, probs, wanted.nms)
    best_first = confidence.sort(descending=True, stable=True).indices
    sure = (confidence >= wanted.confidence).nonzero()[:, 0]
    expected = (
        best_first[: wanted.min_boxes]
        if len(sure) < wanted.min_boxes
        else best_first[: wanted.max_boxes]
        if len(sure) > wanted.max_boxes
        else sure
    )
    assert torch.equal(select(proposals, probs, wanted), expected)
    topk = SelectionSettings(boxes=boxes, selection="topk")
    assert torch.equal(select(proposals, probs, topk), best_first[: topk.max_boxes])


def apart(confidences: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """One class, boxes that do not touch: a proposal's confidence is its probability."""
    low = torch.arange(len(confidences), dtype=torch.float32) * 20
    boxes = torch.stack([low, low * 0, low + 10, low * 0 + 10], dim=1)
    foreground = torch.tensor(confidences)
    return boxes, torch.stack([1 - foreground, foreground], dim=1)


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ("1-9", [0, 1, 3, 4]),  # as they come
        ("5-9", [1, 4, 0, 3, 2]),  # too few are sure: the best 5, best first
        ("1-2", [1, 4]),  # too many: the best 2, of equals the earlier first
        ("6", [1, 4, 0, 3, 2, 5]),
    ],
)
def test_order(boxes: str, expected: list[int]) -> None:
    proposals, probs = apart([0.4, 0.9, 0.1, 0.3, 0.9, 0.05])
    assert select(proposals, probs, SelectionSettings(boxes=boxes)).tolist() == expected


def test_background_neither_selects_nor_suppresses() -> None:
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 10.0]])
    probs = torch.tensor([[0.7, 0.3, 0.0], [0.0, 0.0, 1.0]])
    assert select(boxes, probs, SelectionSettings(boxes="1-2")).tolist() == [0, 1]
