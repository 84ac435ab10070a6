"""Losses of heads, against the published formulas."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from vilbert.pipeline.tasks.losses import binary_loss, choice_loss, next_word_loss, region_loss, soft_answer_loss

ITEMS, ANSWERS = 6, 11


@pytest.fixture
def scores() -> Tensor:
    return torch.randn(ITEMS, ANSWERS, generator=torch.Generator().manual_seed(3))


def test_soft_answers_are_the_published_mean_times_the_number_of_answers(scores: Tensor) -> None:
    ids = torch.tensor([[0, 4, -1], [3, -1, -1], [10, 2, 1], [5, -1, -1], [-1, -1, -1], [7, 8, -1]])
    values = torch.tensor([[1.0, 0.3, 0], [0.9, 0, 0], [0.6, 0.3, 0.3], [1, 0, 0], [0, 0, 0], [0.3, 0.6, 0]])
    dense = torch.zeros(ITEMS, ANSWERS)
    for row in range(ITEMS):
        for label, value in zip(ids[row].tolist(), values[row].tolist(), strict=True):
            if label >= 0:
                dense[row, label] = value
    published = F.binary_cross_entropy_with_logits(scores, dense, reduction="mean") * ANSWERS
    ours = soft_answer_loss(scores, ids, values, torch.ones(ITEMS)) / ITEMS
    torch.testing.assert_close(ours, published)


def test_a_question_without_answers_adds_nothing(scores: Tensor) -> None:
    ids, values = torch.full((ITEMS, 2), -1), torch.zeros(ITEMS, 2)
    labelled = torch.tensor([1.0, 0, 1, 0, 0, 1])
    some = labelled.bool()
    expected = soft_answer_loss(scores[some], ids[some], values[some], torch.ones(3))
    torch.testing.assert_close(soft_answer_loss(scores, ids, values, labelled), expected)


def test_choices_and_classes(scores: Tensor) -> None:
    label = torch.tensor([0, 3, -1, 2, 1, -1])
    four = scores[:, :4]
    known = label >= 0
    torch.testing.assert_close(choice_loss(four, label), F.cross_entropy(four[known], label[known], reduction="sum"))
    two = scores[:, :2]
    label = label.clamp(max=1)
    published = F.binary_cross_entropy_with_logits(two[known], F.one_hot(label[known], 2).float())
    torch.testing.assert_close(binary_loss(two, label) / (2 * known.sum()), published)


def test_regions_are_the_published_mean_times_the_number_of_regions(scores: Tensor) -> None:
    """There, padding has a score lowered by 10000 and a target of 0, which adds nothing either."""
    counts = torch.tensor([ANSWERS, 3, 1, 7, 0, 5])
    there = torch.arange(ANSWERS) < counts[:, None]
    overlap = torch.rand(ITEMS, ANSWERS, generator=torch.Generator().manual_seed(5)) * there
    lowered = scores - 10_000.0 * ~there
    published = F.binary_cross_entropy_with_logits(lowered, overlap, reduction="mean") * ANSWERS
    torch.testing.assert_close(region_loss(lowered, overlap, counts) / ITEMS, published)
    assert region_loss(lowered[4:5], overlap[4:5], counts[4:5]) == 0


def test_next_words_are_those_with_a_label() -> None:
    scores = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(1), requires_grad=True)
    labels = torch.tensor([[3, 1, 6, -1, -1], [2, -1, -1, -1, -1]])
    loss = next_word_loss(scores, labels)
    expected = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=-1, reduction="sum")
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert scores.grad is not None
    assert (scores.grad[labels < 0] == 0).all()


def test_parts_add_up_to_the_whole(scores: Tensor) -> None:
    label = torch.tensor([0, 3, -1, 2, 1, 2])
    parts = [choice_loss(scores[some, :4], label[some]) for some in (slice(0, 1), slice(1, 5), slice(5, 6))]
    torch.testing.assert_close(sum(parts), choice_loss(scores[:, :4], label))
