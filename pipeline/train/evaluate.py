"""How well a model does on held-out pairs: losses and accuracies of the three pre-training tasks.

Every sample counts exactly once on any number of ranks, with the masks and swaps that (seed, sample) gives it, so two
evaluations differ by the model alone. Only the loss of NCE (`visual_target` 2) depends on ranks and parts as well: a
region is told apart from others of its own micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vilbert.model.heads import fuse
from vilbert.model.losses import alignment_loss, masked_word_loss
from vilbert.model.pretraining import RegionTarget, masked_image_loss
from vilbert.model.vilbert import ViLBertForPreTraining
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.train.batch import PARTS, Batch
from vilbert.pipeline.train.distributed import Group
from vilbert.pipeline.train.step import seed_of

if TYPE_CHECKING:
    from vilbert.pipeline.train.pretrain_objective import PretrainObjective

HEAD_LABELS = ("masked_lm_labels", "image_label", "image_target", "next_sentence_label")


@dataclass(frozen=True, kw_only=True)
class PretrainEvaluation:
    """What was counted over all held-out samples."""

    sums: Tensor
    """[3] float64, of the losses in the order of `batch.PARTS`."""
    counts: Tensor
    """[3] int64."""
    word_right: Tensor
    """[V] int64: masked words of each vocabulary id that were predicted."""
    word_count: Tensor
    """[V] int64: masked words."""
    class_right: Tensor
    """[C] int64: masked regions, by their most probable class, whose class was predicted; [0] where features are."""
    class_count: Tensor
    """[C] int64: masked regions."""
    aligned: Tensor
    """[2] int64: pairs told right, and pairs."""
    unread: Tensor
    """[] int64: samples that could not be read."""

    def figures(self) -> dict[str, float]:
        """Return losses and accuracies by name, and how many samples could not be read.

        The majority is what naming the commonest class would give. A figure of nothing is left out, as where no pair
        was labelled.
        """
        losses = zip(PARTS, self.sums.tolist(), self.counts.tolist(), strict=True)
        figures = {f"{name}_loss": total / count for name, total, count in losses if count}
        if figures:
            figures["loss"] = sum(figures.values())
        if words := int(self.word_count.sum()):
            figures["masked_lm_accuracy"] = int(self.word_right.sum()) / words
        if regions := int(self.class_count.sum()):
            figures["masked_image_accuracy"] = int(self.class_right.sum()) / regions
            figures["masked_image_majority"] = int(self.class_count.max()) / regions
        right, pairs = self.aligned.tolist()
        if pairs:
            figures["alignment_accuracy"] = right / pairs
        figures["unread"] = int(self.unread)
        return figures


def encode_evaluation(found: PretrainEvaluation, words: Sequence[str], classes: Sequence[str]) -> bytes:
    """Return evaluation.json: the figures, and [right, masked] of each word piece and region class that was masked.

    words: word pieces by id, of which there may be fewer than the model embeds. classes: region classes by id. A figure
    that is no finite number becomes null.
    """
    document = {
        "figures": {name: value if math.isfinite(value) else None for name, value in found.figures().items()},
        "words": _table(words, found.word_right, found.word_count),
        "classes": _table(classes, found.class_right, found.class_count),
    }
    return encode_json(document, indent=2) + b"\n"


def _table(names: Sequence[str], right: Tensor, count: Tensor) -> dict[str, list[int]]:
    seen = [at for at in range(min(len(names), len(count))) if count[at]]
    return {names[at]: [int(right[at]), int(count[at])] for at in seen}


def _nothing_yet(words: int, classes: int) -> PretrainEvaluation:
    """Return the counts of no samples, which those of a rank are added to in place."""
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
    """Return what the model gives on this rank's batches and all other ranks', in evaluation mode.

    model: not wrapped.
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
    """Add to `count` how often each class is true, and to `right` how often it has the highest of scores [N, K] too."""
    hits = true[scores.argmax(-1) == true]
    right += torch.bincount(hits.cpu(), minlength=len(right))
    count += torch.bincount(true.cpu(), minlength=len(count))
