"""The objective of pre-training: masked words, masked regions, and image-text alignment."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vilbert.model.heads import fuse
from vilbert.model.losses import alignment_loss, masked_word_loss
from vilbert.model.pretraining import RegionTarget, masked_image_loss
from vilbert.model.vilbert import ViLBertForPreTraining
from vilbert.pipeline.train.engine.distributed import Group
from vilbert.pipeline.train.engine.step import seed_of
from vilbert.pipeline.train.examples.batch import PARTS, Batch
from vilbert.pipeline.train.examples.inputs import require_class_ids, to_model_inputs, to_positions
from vilbert.pipeline.train.pretraining.evaluation import PretrainEvaluation

HEAD_LABELS = ("masked_lm_labels", "image_label", "image_target", "next_sentence_label")


@dataclass(frozen=True, kw_only=True)
class PretrainObjective:
    """Computes the losses of batches of pairs; constant over a run."""

    num_classes: int
    """Number of classes of a region's soft label."""
    visual_target: int
    """`ViLBertConfig.visual_target`."""
    feature_dim: int
    """Number of channels of a region's feature."""
    bfloat16: bool
    """Whether the model runs under autocast."""
    seed: int
    """Seed of dropout, and of negatives if there are any."""
    known_positions: bool = False
    """Whether the loader computes the masked positions; otherwise a model on a GPU does, and the CPU waits for it."""
    parts: tuple[str, ...] = PARTS
    stage: str = "pretrain"

    @property
    def capturable(self) -> bool:
        """Whether the loader computes all positions."""
        return self.known_positions

    def counts(self, part: Batch) -> Tensor:
        """Return int64 [3]: labelled tokens, terms of masked regions, labelled pairs.

        Raises:
            ValueError: The batch has an invalid class id.
        """
        if self.visual_target == 0:
            require_class_ids(part, self.num_classes)
        return part.counts(self.visual_target, self.feature_dim)

    def sums(self, model: nn.Module, part: Batch, device: torch.device, seed: int) -> Tensor:
        """Return the three summed losses, float32 [3]."""
        inputs: dict[str, Any] = self.inputs(part, device)
        if self.known_positions and device.type == "cuda":
            inputs["positions"] = to_positions(part, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16):
            output: Any = model(**inputs, generator=self.negatives(seed))
        return torch.stack([getattr(output, name).sum for name in PARTS])

    def inputs(self, part: Batch, device: torch.device) -> dict[str, Tensor]:
        """Return the model's arguments on its device."""
        return to_model_inputs(part, device, num_classes=self.num_classes, visual_target=self.visual_target)

    def negatives(self, seed: int) -> torch.Generator | None:
        """Return the generator for negatives of masked regions; None if the target needs none."""
        return torch.Generator().manual_seed(seed) if self.visual_target == 2 else None

    def evaluate(
        self, model: ViLBertForPreTraining, batches: Iterable[list[Batch]], group: Group
    ) -> PretrainEvaluation:
        """Return losses and accuracies of the three tasks."""
        return evaluate(model, batches, self, group)

    def badness(self, figures: Mapping[str, float]) -> float:
        """Return the sum of the losses; NaN if none could be computed."""
        return figures.get("loss", math.nan)


def _nothing_yet(words: int, classes: int) -> PretrainEvaluation:
    """Return counts of zero, to which a rank adds its counts in place."""
    word_right, word_count = torch.zeros(2, words, dtype=torch.int64)
    class_right, class_count = torch.zeros(2, classes, dtype=torch.int64)
    return PretrainEvaluation(
        sums=torch.zeros(3, dtype=torch.float64),
        counts=torch.zeros(3, dtype=torch.int64),
        word_right=word_right,
        word_count=word_count,
        class_right=class_right,
        class_count=class_count,
        aligned=torch.zeros(2, dtype=torch.int64),
        unread=torch.zeros((), dtype=torch.int64),
    )


@torch.no_grad()
def evaluate(
    model: ViLBertForPreTraining, batches: Iterable[list[Batch]], objective: PretrainObjective, group: Group
) -> PretrainEvaluation:
    """Evaluate the model on the batches of all ranks, in evaluation mode.

    Args:
        model: The model, not wrapped.
        batches: This rank's micro-batches.
        objective: The objective.
        group: The processes of the run.
    """
    classes = objective.num_classes if objective.visual_target == 0 else 0
    counted = _nothing_yet(model.config.vocab_size, classes)
    was_training = model.training
    model.train(False)
    try:
        for step, parts in enumerate(batches):
            for number, part in enumerate(parts):
                seed = seed_of(objective.seed, step, group.rank, number)
                _count(counted, model, part, objective, group, seed)
    finally:
        model.train(was_training)
    joined = {name: group.sum(value).cpu() for name, value in vars(counted).items()}
    return PretrainEvaluation(**joined)


def _count(
    counted: PretrainEvaluation,
    model: ViLBertForPreTraining,
    part: Batch,
    objective: PretrainObjective,
    group: Group,
    seed: int,
) -> None:
    inputs = objective.inputs(part, group.device)
    labels = {name: inputs.pop(name) for name in HEAD_LABELS}
    words, regions = labels["masked_lm_labels"] >= 0, labels["image_label"] == 1
    with torch.autocast(group.device.type, torch.bfloat16, enabled=objective.bfloat16):
        encoded: Any = model.bert(**inputs, wanted_words=words, wanted_regions=F.pad(regions, (1, 0)))
        fused = fuse(encoded.pooled_text, encoded.pooled_image, model.config.fusion_method)
        word_scores = model.cls.predictions(encoded.text_output[words])
        region_scores = model.cls.imagePredictions(encoded.image_output[:, 1:][regions])
        pair_scores = model.cls.alignment(fused)
    kind, negatives = objective.visual_target, objective.negatives(seed)
    target = RegionTarget(kind=kind, num_negative=model.config.num_negative, generator=negatives)
    losses = (
        masked_word_loss(word_scores, labels["masked_lm_labels"][words]),
        masked_image_loss(region_scores, labels["image_label"], labels["image_target"], target),
        alignment_loss(pair_scores, labels["next_sentence_label"]),
    )
    counted.sums.add_(torch.stack([loss.sum.double() for loss in losses]).cpu())
    counted.counts.add_(torch.stack([loss.count for loss in losses]).cpu())
    _tally(counted.word_right, counted.word_count, word_scores, labels["masked_lm_labels"][words])
    if objective.visual_target == 0:
        _tally(counted.class_right, counted.class_count, region_scores, labels["image_target"][regions].argmax(-1))
    pairs = labels["next_sentence_label"] >= 0
    right = pair_scores.argmax(-1)[pairs] == labels["next_sentence_label"][pairs]
    counted.aligned.add_(torch.stack([right.sum(), pairs.sum()]).cpu())
    counted.unread.add_(part.unread)


def _tally(right: Tensor, count: Tensor, scores: Tensor, true: Tensor) -> None:
    """Count how often each class is the true one, and how often it also has the highest of the scores [N, K]."""
    hits = true[scores.argmax(-1) == true]
    right += torch.bincount(hits.cpu(), minlength=len(right))
    count += torch.bincount(true.cpu(), minlength=len(count))
