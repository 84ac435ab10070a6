"""How well a model does on held-out pairs: losses and accuracies of the three pre-training tasks.

Every sample counts exactly once on any number of ranks, with the masks and swaps that (seed, sample) gives it, so two
evaluations differ by the model alone. Only the loss of NCE (`visual_target` 2) depends on ranks and parts as well: a
region is told apart from others of its own micro-batch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.train.examples.batch import PARTS


@dataclass(frozen=True, kw_only=True)
class PretrainEvaluation:
    """What was counted over all held-out samples."""

    sums: Tensor
    """[3] float64, of the losses in the order of `examples.batch.PARTS`."""
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
