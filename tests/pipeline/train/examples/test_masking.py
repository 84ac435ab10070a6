"""Masks against the published loops, written afresh and fed the same draws."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest

from vilbert.extractors.agreement import pixel_iou
from vilbert.pipeline.train.examples.masking import RegionDraws, WordDraws, mask_regions, mask_words

MASK_ID = 103
SEEDS = range(40)


def random_words(seed: int) -> tuple[np.ndarray, np.ndarray, WordDraws]:
    draw = np.random.default_rng(seed)
    shape = (int(draw.integers(1, 6)), int(draw.integers(3, 20)))
    maskable = draw.random(shape) < 0.8
    draws = WordDraws(draw.random(shape) / 3, draw.random(shape), draw.integers(0, 999, shape))
    return draw.integers(200, 900, shape), maskable, draws


@pytest.mark.parametrize("seed", SEEDS)
def test_words_are_masked_as_the_published_loop_does(seed: int) -> None:
    ids, maskable, draws = random_words(seed)
    seen, labels = mask_words(ids, maskable, draws, mask_id=MASK_ID, share=0.15)
    for row in range(len(ids)):
        for column in range(ids.shape[1]):
            word, label = ids[row, column], -1
            if maskable[row, column] and draws.choice[row, column] < 0.15:
                label, action = word, draws.action[row, column]
                if action < 0.8:
                    word = MASK_ID
                elif action < 0.9:
                    word = draws.replacement[row, column]
            assert (seen[row, column], labels[row, column]) == (word, label)


def test_shares_of_words_are_those_of_bert() -> None:
    draw = np.random.default_rng(0)
    shape = (2000, 100)
    ids = np.full(shape, 500)
    draws = WordDraws(draw.random(shape), draw.random(shape), np.full(shape, 501))
    seen, labels = mask_words(ids, np.ones(shape, dtype=bool), draws, mask_id=MASK_ID, share=0.15)
    chosen = seen[labels >= 0]
    counts = np.array([np.sum(chosen == MASK_ID), np.sum(chosen == 501), np.sum(chosen == 500), np.sum(labels < 0)])
    expected = np.array([0.12, 0.015, 0.015, 0.85]) * ids.size
    assert ((counts - expected) ** 2 / expected).sum() < 21  # 3 degrees of freedom: once in 10 000 by chance


def test_the_given_ids_are_not_written_to() -> None:
    ids, maskable, draws = random_words(0)
    before = ids.copy()
    mask_words(ids, maskable, draws, mask_id=MASK_ID, share=1.0)
    assert (ids == before).all()


def published_iou(left: np.ndarray, right: np.ndarray) -> float:
    width = max(min(left[2], right[2]) - max(left[0], right[0]) + 1, 0)
    height = max(min(left[3], right[3]) - max(left[1], right[1]) + 1, 0)
    areas = [(box[2] - box[0] + 1) * (box[3] - box[1] + 1) for box in (left, right)]
    return float(width * height / (areas[0] + areas[1] - width * height))


def published_regions(
    boxes: np.ndarray, count: int, choice: np.ndarray, action: np.ndarray, *, share: float, slots: int
) -> dict[str, Any]:
    """The loop of the published code for one image: labels, zeroed regions, and `masked_label` over the slots."""
    labels, zeroed, covered = [-1] * slots, [False] * slots, [False] * slots
    for i in range(count):
        if choice[i] < share:
            labels[i], zeroed[i] = 1, bool(action[i] < 0.9)
            for j in range(count):
                covered[j] = covered[j] or published_iou(boxes[i], boxes[j]) > 0.4
    return {"labels": labels, "zeroed": zeroed, "covered": covered}


def random_regions(seed: int) -> tuple[np.ndarray, np.ndarray, RegionDraws, np.ndarray]:
    draw = np.random.default_rng(seed)
    rows, width = int(draw.integers(1, 5)), int(draw.integers(1, 10))
    counts = draw.integers(0, width + 1, rows)
    corners = np.sort(
        draw.integers(0, 30, (rows, width, 2, 2)), axis=2
    )  # small numbers: many overlaps, exact in float32
    present = np.arange(width) < counts[:, None]
    boxes = np.where(present[..., None], corners.reshape(rows, width, 4), 0).astype(np.float32)
    return boxes, present, RegionDraws(draw.random((rows, width)), draw.random((rows, width))), counts


@pytest.mark.parametrize("overlap", ["none", "divisor", "paper"])
@pytest.mark.parametrize("seed", SEEDS)
def test_regions_are_masked_as_the_published_loop_does(seed: int, overlap: Literal["none", "divisor", "paper"]) -> None:
    boxes, present, draws, counts = random_regions(seed)
    width, slots = boxes.shape[1], 12
    masks = mask_regions(boxes, present, draws, share=0.4, overlap=overlap, slots=slots)
    for row, count in enumerate(counts.tolist()):
        loop = published_regions(boxes[row], count, draws.choice[row], draws.action[row], share=0.4, slots=slots)
        zeroed = list(loop["zeroed"])
        if overlap == "none":
            divisor = max(count, 1)
        elif overlap == "divisor":
            divisor = max(loop["covered"].count(False), 1)
        else:
            for j in range(count):
                if loop["covered"][j] and loop["labels"][j] != 1:
                    zeroed[j] = True
            divisor = max(sum(not zeroed[j] for j in range(count)), 1)
        assert masks.label[row].tolist() == loop["labels"][:width]
        assert masks.zeroed[row].tolist() == zeroed[:width]
        assert masks.divisor[row] == divisor


def test_shares_of_regions_are_those_of_vilbert() -> None:
    draw = np.random.default_rng(0)
    shape = (4000, 36)
    draws = RegionDraws(draw.random(shape), draw.random(shape))
    boxes = np.zeros((*shape, 4), dtype=np.float32)
    masks = mask_regions(boxes, np.ones(shape, dtype=bool), draws, share=0.15, overlap="none", slots=36)
    chosen = masks.label == 1
    counts = np.array([np.sum(chosen & masks.zeroed), np.sum(chosen & ~masks.zeroed), np.sum(~chosen)])
    expected = np.array([0.135, 0.015, 0.85]) * chosen.size
    assert ((counts - expected) ** 2 / expected).sum() < 19  # 2 degrees of freedom: once in 10 000 by chance
    assert not (masks.zeroed & ~chosen).any()


def test_a_hidden_region_cannot_be_read_off_its_neighbour_as_in_the_paper() -> None:
    boxes = np.array([[[0, 0, 9, 9], [0, 0, 9, 8], [50, 50, 59, 59]]], dtype=np.float32)
    draws = RegionDraws(np.array([[0.0, 0.9, 0.9]]), np.array([[0.0, 0.0, 0.0]]))
    present = np.ones((1, 3), dtype=bool)
    masks = mask_regions(boxes, present, draws, share=0.15, overlap="paper", slots=36)
    assert masks.zeroed.tolist() == [[True, True, False]]
    assert masks.label.tolist() == [[1, -1, -1]]
    assert masks.divisor.tolist() == [1]


def test_one_pixel_boxes_overlap_themselves_alone() -> None:
    boxes = np.array([[[3, 3, 3, 3], [4, 3, 4, 3]]], dtype=np.float32)
    assert pixel_iou(boxes, boxes).tolist() == [[[1, 0], [0, 1]]]
