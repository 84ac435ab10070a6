"""The objective of pre-training: masked words, masked regions, and whether text and image match."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from vilbert.model.vilbert import ViLBertForPreTraining
from vilbert.pipeline.train.batch import PARTS, Batch
from vilbert.pipeline.train.distributed import Group
from vilbert.pipeline.train.evaluate import PretrainEvaluation, evaluate
from vilbert.pipeline.train.inputs import to_model_inputs


@dataclass(frozen=True, kw_only=True)
class PretrainObjective:
    """What turns batches of pairs into losses; the same at every step."""

    num_classes: int
    """Classes that a region's soft label is a distribution over."""
    visual_target: int
    """`ViLBertConfig.visual_target`."""
    feature_dim: int
    """Length of a region's feature."""
    bfloat16: bool
    """Whether the model runs under autocast."""
    seed: int
    """Of dropout, and of negatives where there are any."""
    parts: tuple[str, ...] = PARTS
    stage: str = "pretrain"

    def counts(self, part: Batch) -> Tensor:
        """Return int64 [3]: labelled words, terms of masked regions, labelled pairs."""
        return part.counts(self.visual_target, self.feature_dim)

    def sums(self, model: nn.Module, part: Batch, device: torch.device, seed: int) -> Tensor:
        """Return the three losses as sums, [3] float32."""
        inputs = self.inputs(part, device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.bfloat16):
            output: Any = model(**inputs, generator=self.negatives(seed))
        return torch.stack([getattr(output, name).sum for name in PARTS])

    def inputs(self, part: Batch, device: torch.device) -> dict[str, Tensor]:
        """Return the model's arguments, on its device."""
        return to_model_inputs(part, device, num_classes=self.num_classes, visual_target=self.visual_target)

    def negatives(self, seed: int) -> torch.Generator | None:
        """Return what draws the negatives of masked regions, where the model wants any."""
        return torch.Generator().manual_seed(seed) if self.visual_target == 2 else None

    def evaluate(
        self, model: ViLBertForPreTraining, batches: Iterable[list[Batch]], group: Group
    ) -> PretrainEvaluation:
        """Return losses and accuracies of the three tasks."""
        return evaluate(model, batches, self, group)

    def badness(self, figures: Mapping[str, float]) -> float:
        """Return the sum of the losses; NaN where nothing was measured."""
        return figures.get("loss", math.nan)
