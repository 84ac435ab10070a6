"""Losses of task heads. Each is a sum over items.

Losses are summed over classes or regions and averaged over items; the published code multiplies a mean by the number of
classes. Padding and items without a label contribute nothing.

Shapes: I items, A answers, K labels per item, O options, C classes, R regions without the global one, T tokens,
V vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -1


def soft_answer_loss(scores: Tensor, label_ids: Tensor, label_scores: Tensor, labelled: Tensor) -> Tensor:
    """Return the binary cross-entropy against soft scores, summed over answers and labelled items.

    Args:
        scores: [I, A].
        label_ids: int64 [I, K], padded with -1.
        label_scores: float32 [I, K] in [0, 1].
        labelled: float32 [I], 0 or 1.

    Returns:
        float32 [].

    Source: `VL-classifier` of vilbert-multi-task (BCEWithLogits times the number of answers), after Teney et al. 2018.
    """
    scores = scores.float()
    targets = torch.zeros_like(scores)
    targets.scatter_add_(1, label_ids.clamp(min=0), label_scores * (label_ids >= 0))
    each = F.binary_cross_entropy_with_logits(scores, targets, reduction="none").sum(1)
    return (each * labelled).sum()


def choice_loss(scores: Tensor, label: Tensor) -> Tensor:
    """Return the cross-entropy over options [I, O], summed over items whose label (int64 [I]) is not -1; float32 []."""
    return F.cross_entropy(scores.float(), label, ignore_index=IGNORED, reduction="sum")


def binary_loss(scores: Tensor, label: Tensor) -> Tensor:
    """Return the binary cross-entropy against one-hot labels, summed over classes and labelled items.

    Args:
        scores: [I, C].
        label: int64 [I], -1 for no label.

    Source: `VL-binary-classifier` and `VL-tri-classifier` of vilbert-multi-task, which average over classes too.
    """
    labelled = label >= 0
    targets = F.one_hot(label.clamp(min=0), scores.shape[1]).float()
    each = F.binary_cross_entropy_with_logits(scores.float(), targets, reduction="none").sum(1)
    return (each * labelled).sum()


def region_loss(scores: Tensor, overlap: Tensor, counts: Tensor) -> Tensor:
    """Return the binary cross-entropy of each region against its overlap, summed over existing regions.

    Args:
        scores: [I, R + 1], the whole image first.
        overlap: [I, R + 1], the whole image first.
        counts: int64 [I], number of candidates; 0 for items that are not trained on.

    Source: `V-logit` of vilbert-multi-task.
    """
    there = torch.arange(scores.shape[1], device=scores.device) < counts[:, None]
    each = F.binary_cross_entropy_with_logits(scores.float(), overlap, reduction="none")
    return each.masked_fill(~there, 0).sum()


def next_word_loss(scores: Tensor, next_words: Tensor) -> Tensor:
    """Return the cross-entropy of the next token, summed over positions whose label is not -1; float32 [].

    Args:
        scores: [I, T, V].
        next_words: int64 [I, T].
    """
    wanted = next_words >= 0
    return F.cross_entropy(scores[wanted].float(), next_words[wanted], reduction="sum")
