"""Evaluation on held-out pairs: losses and accuracies of the three pre-training tasks.

Every sample counts exactly once for any number of ranks, with masks and swaps determined by (seed, sample), so two
evaluations differ only by the model. The exception is the loss of NCE (`visual_target` 2), which also depends on ranks
and micro-batches: a region is distinguished from others of its own micro-batch.
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
    """Counts over all held-out samples."""

    sums: Tensor
    """[3] float64: summed losses in the order of `examples.batch.PARTS`."""
    counts: Tensor
    """[3] int64: divisors of the losses."""
    word_right: Tensor
    """[V] int64: correctly predicted masked tokens by vocabulary id."""
    word_count: Tensor
    """[V] int64: masked tokens by vocabulary id."""
    class_right: Tensor
    """[C] int64: correctly predicted masked regions by most probable class; [0] if the target is the feature."""
    class_count: Tensor
    """[C] int64: masked regions by most probable class."""
    aligned: Tensor
    """[2] int64: correctly classified pairs, and pairs."""
    unread: Tensor
    """[] int64: samples that could not be read."""

    def figures(self) -> dict[str, float]:
        """Return losses and accuracies by name, and the number of unreadable samples.

        masked_image_majority is the accuracy of always predicting the most frequent class. Metrics without any sample
        are left out, for example if no pair was labelled.
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
    """Return evaluation.json: the metrics, and [correct, masked] for each masked token and region class.

    Args:
        found: The evaluation.
        words: Tokens by id; there may be fewer than the model embeds.
        classes: Region classes by id.

    Returns:
        JSON, with null for metrics that are not finite.
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
