"""Selection for a batch of images: that of `selection.select`, or marked as inexact."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vilbert.extractors import batch_selection
from vilbert.extractors.batch_selection import select_batch
from vilbert.extractors.selection import SelectionSettings, select

from .test_selection import crowded, detections

RULES = ("butd", "topk", "vinvl")


def padded(images: list[tuple[Any, Any]]) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes, probabilities and which of them are there, all images with as many; padding has values, too."""
    most = max(len(boxes) for boxes, _ in images) + 1
    columns = max(probs.shape[1] for _, probs in images)
    boxes_xyxy = torch.full((len(images), most, 4), float("nan"))
    probs_of = torch.ones(len(images), most, columns)
    usable = torch.zeros(len(images), most, dtype=torch.bool)
    for row, (boxes, probs) in enumerate(images):
        boxes_xyxy[row, : len(boxes)] = torch.as_tensor(boxes)
        probs_of[row, : len(boxes)] = 0
        probs_of[row, : len(boxes), : probs.shape[1]] = torch.as_tensor(probs)
        usable[row, : len(boxes)] = True
    return boxes_xyxy, probs_of, usable


def compare(images: list[tuple[Any, Any]], wanted: SelectionSettings) -> list[bool]:
    """Compare each image's selection with `select`'s, where it is exact; return which are."""
    found = select_batch(*padded(images), wanted)
    for row, (boxes, probs) in enumerate(images):
        if found.is_exact[row]:
            expected = select(torch.as_tensor(boxes), torch.as_tensor(probs), wanted)
            assert found.keep[row, : found.counts[row]].tolist() == expected.tolist()
    return found.is_exact.tolist()


@given(
    st.lists(detections(), min_size=1, max_size=3),
    st.sampled_from(["1", "2-5", "3", "5-9", "1-12", "12"]),
    st.sampled_from(RULES),
    st.sampled_from([0.0, 0.2, 0.35, 0.5, 0.9, 1.0]),
    st.sampled_from([0.1, 0.25, 1 / 3, 0.5, 1.0]),
)
def test_a_batch_keeps_what_its_images_keep_alone(
    images: list[tuple[np.ndarray, np.ndarray]],
    boxes: str,
    rule: Literal["butd", "topk", "vinvl"],
    confidence: float,
    nms: float,
) -> None:
    wanted = SelectionSettings(boxes=boxes, selection=rule, confidence=confidence, nms=nms)
    assert all(compare(images, wanted)) or confidence == 0 or any(not len(it[0]) for it in images)


@given(
    st.lists(detections(), min_size=1, max_size=3),
    st.sampled_from(["1", "2-5", "1-12"]),
    st.sampled_from(RULES),
    st.sampled_from([0.2, 0.5]),
    st.sampled_from([1, 2]),
    st.sampled_from([1, 3, 8]),
    st.sampled_from([1, 2, 3]),
)
def test_a_batch_with_narrow_bounds_keeps_the_same_or_says_that_it_is_inexact(
    images: list[tuple[np.ndarray, np.ndarray]],
    boxes: str,
    rule: Literal["butd", "topk", "vinvl"],
    confidence: float,
    classes: int,
    pairs: int,
    rounds: int,
) -> None:
    wanted = SelectionSettings(boxes=boxes, selection=rule, confidence=confidence, nms=0.25)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_selection, "CLASSES", classes)
        patch.setattr(batch_selection, "PAIRS", pairs)
        patch.setattr(batch_selection, "ROUNDS", rounds)
        compare(images, wanted)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("boxes", ["36", "10-100"])
def test_images_of_1600_classes_are_exact_where_some_class_is_probable(
    rule: Literal["butd", "topk", "vinvl"], boxes: str
) -> None:
    images: list[tuple[Any, Any]] = [
        crowded(seed=seed, proposals=count, classes=1600, sharpness=9.0) for seed, count in enumerate((150, 120))
    ]
    wanted = SelectionSettings(boxes=boxes, selection=rule, confidence=0.2)
    assert all(compare(images, wanted))


def test_an_image_whose_classes_are_all_improbable_is_inexact() -> None:
    image: tuple[Any, Any] = crowded(seed=0, proposals=150, classes=1600, sharpness=0.0)
    assert compare([image], SelectionSettings(boxes="36")) == [False]


def test_a_chain_of_suppressions_longer_than_the_rounds_is_inexact() -> None:
    left = torch.arange(41, dtype=torch.float32) * 4
    boxes = torch.stack([left, left * 0, left + 7, left * 0 + 10], dim=1)  # each one overlaps the next
    scores = torch.linspace(0.9, 0.3, 41)
    image = (boxes, torch.stack([1 - scores, scores], dim=1))
    wanted = SelectionSettings(boxes="1-36", nms=0.2)
    short = (boxes[:13], image[1][:13])
    assert compare([image, short], wanted) == [False, True]
