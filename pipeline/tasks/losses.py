"""The losses of task heads, each a sum over items, and how scores become answers.

Sums over classes or regions and means over items, as the published code has them by multiplying a mean with the number
of classes. Padding and items without a label add nothing.

Shapes: I items, A answers, K labels of an item, O options, C classes, R regions without the global one, T word pieces,
V words.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -1


def soft_answer_loss(scores: Tensor, label_ids: Tensor, label_scores: Tensor, labelled: Tensor) -> Tensor:
    """Return binary cross-entropy against soft scores, summed over answers and labelled items, [] float32.

    scores: [I, A]. label_ids: int64 [I, K], -1 pads. label_scores: float32 [I, K], 0 to 1. labelled: float32 [I], 0
    or 1.
    Source: `VL-classifier` of vilbert-multi-task (BCEWithLogits times the number of answers), after Teney et al. 2018.
    """
    scores = scores.float()
    targets = torch.zeros_like(scores)
    targets.scatter_add_(1, label_ids.clamp(min=0), label_scores * (label_ids >= 0))
    each = F.binary_cross_entropy_with_logits(scores, targets, reduction="none").sum(1)
    return (each * labelled).sum()


def choice_loss(scores: Tensor, label: Tensor) -> Tensor:
    """Return cross-entropy over options [I, O], summed over items whose label, int64 [I], is not -1, [] float32."""
    return F.cross_entropy(scores.float(), label, ignore_index=IGNORED, reduction="sum")


def binary_loss(scores: Tensor, label: Tensor) -> Tensor:
    """Return binary cross-entropy of each class against a one-hot label, summed over classes and labelled items.

    scores: [I, C]. label: int64 [I], -1 for no label. Source: `VL-binary-classifier` and `VL-tri-classifier` of
    vilbert-multi-task, whose mean is over classes too.
    """
    labelled = label >= 0
    targets = F.one_hot(label.clamp(min=0), scores.shape[1]).float()
    each = F.binary_cross_entropy_with_logits(scores.float(), targets, reduction="none").sum(1)
    return (each * labelled).sum()


def region_loss(scores: Tensor, overlap: Tensor, counts: Tensor) -> Tensor:
    """Return binary cross-entropy of each region against its soft overlap, summed over the regions there are.

    scores, overlap: [I, R + 1], the whole image first. counts: int64 [I], candidates of each; 0 where nothing is to
    be learnt. Source: `V-logit` of vilbert-multi-task.
    """
    there = torch.arange(scores.shape[1], device=scores.device) < counts[:, None]
    each = F.binary_cross_entropy_with_logits(scores.float(), overlap, reduction="none")
    return each.masked_fill(~there, 0).sum()


def next_word_loss(scores: Tensor, next_words: Tensor) -> Tensor:
    """Return cross-entropy of the next word at each position whose label is not -1, summed, [] float32.

    scores: [I, T, V]. next_words: int64 [I, T].
    """
    wanted = next_words >= 0
    return F.cross_entropy(scores[wanted].float(), next_words[wanted], reduction="sum")
