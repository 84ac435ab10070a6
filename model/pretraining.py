"""Compute the pre-training outputs from encoded words and regions: losses of heads with labels, scores of others.

Shapes: B batch, T words, R regions with the global one at 0, A the width of the fused vector, C outputs for a region.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from vilbert.model.heads import RegionHead, WordHead
from vilbert.model.losses import (
    LossSum,
    alignment_loss,
    masked_region_kl,
    masked_region_nce,
    masked_region_regression,
    masked_word_loss,
    nce_negatives,
)
from vilbert.model.packing import Positions


@dataclass(frozen=True, kw_only=True)
class Labels:
    """The labels of a batch; None for heads without labels."""

    masked_lm: Tensor | None
    """[B, T] the original word piece at masked positions, -1 elsewhere."""
    image: Tensor | None
    """[B, R - 1], 1 for masked regions."""
    image_target: Tensor | None
    """[B, R - 1, C] class probabilities or features."""
    alignment: Tensor | None
    """[B] 0 where text and image match, 1 where not."""


@dataclass(frozen=True, kw_only=True)
class RegionTarget:
    """The target of masked regions."""

    kind: int
    """0 the detector's classes (KL), 1 features (squared error), 2 features (NCE): the setting `visual_target`."""
    num_negative: int
    """Number of negatives per masked region if kind is 2."""
    generator: torch.Generator | None
    """Draws the negatives."""


class Heads(Protocol):
    """The three pre-training heads."""

    predictions: WordHead
    imagePredictions: RegionHead  # noqa: N815 (published name)

    def alignment(self, fused_BA: Tensor) -> Tensor:
        """Return scores [B, 2]: class 0 says that text and image match."""


def losses_and_scores(
    heads: Heads,
    text_BTH: Tensor,
    image_BRV: Tensor,
    fused_BA: Tensor,
    labels: Labels,
    target: RegionTarget,
    positions: Positions | None = None,
) -> dict[str, Any]:
    """Return the fields of `ViLBertForPreTrainingOutput`. For heads with labels, only labelled positions are projected.

    `positions` are the positions of the labels, if they were computed in advance.
    """
    losses: dict[str, LossSum] = {}
    scores: dict[str, Tensor] = {}
    if labels.masked_lm is None:
        scores["text_scores"] = heads.predictions(text_BTH)
    else:
        labelled = labels.masked_lm >= 0 if positions is None else positions.labelled_words
        words_NH, words_N = rows_at(text_BTH, labelled), rows_at(labels.masked_lm, labelled)
        losses["masked_lm"] = masked_word_loss(heads.predictions(words_NH), words_N)
    if labels.image is None or labels.image_target is None:
        scores["image_scores"] = heads.imagePredictions(image_BRV)
    else:
        masked = labels.image == 1 if positions is None else positions.masked_regions
        predicted = heads.imagePredictions(rows_at(image_BRV[:, 1:], masked))
        losses["masked_image"] = masked_image_loss(predicted, labels.image, labels.image_target, target, masked)
    scores["alignment_scores"] = heads.alignment(fused_BA)
    if labels.alignment is not None:
        losses["alignment"] = alignment_loss(scores["alignment_scores"], labels.alignment.flatten())
    loss = torch.stack([part.mean for part in losses.values()]).sum() if losses else None
    return {"loss": loss, **losses, **scores}


def rows_at(values: Tensor, where: Tensor) -> Tensor:
    """Return the rows of values [B, L, ...] selected by a mask [B, L] or by int64 indices into [B x L]."""
    return values[where] if where.dtype == torch.bool else values.flatten(0, 1).index_select(0, where)


def masked_image_loss(
    predicted_MC: Tensor, label_BR: Tensor, target_BRC: Tensor, target: RegionTarget, masked: Tensor | None = None
) -> LossSum:
    """Return the loss of the predictions for masked regions, in the order of `label_BR == 1`.

    `masked` selects the masked regions, see `rows_at`; indices of regions that are not masked are ignored.
    """
    masked = label_BR == 1 if masked is None else masked
    if target.kind in (0, 1):
        loss_of = masked_region_kl if target.kind == 0 else masked_region_regression
        target_MC = rows_at(target_BRC, masked)
        if masked.dtype == torch.bool:
            return loss_of(predicted_MC, target_MC)
        counted_M1 = rows_at(label_BR, masked)[:, None] == 1
        total = loss_of(predicted_MC * counted_M1, target_MC * counted_M1).sum
        return LossSum(total, counted_M1.sum() * (1 if target.kind == 0 else predicted_MC.shape[1]))
    if target.generator is None:
        raise ValueError("visual_target 2 draws negatives: give a generator")
    negatives = nce_negatives(label_BR, target.num_negative, target.generator)
    return masked_region_nce(predicted_MC, target_BRC, label_BR, negatives)
