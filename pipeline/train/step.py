"""One step of the optimizer: a global batch forward and backward, over all ranks and accumulated parts.

Losses are sums over counts. The counts of the whole global batch are known from its labels, so every part divides by
them before it goes backward, and the gradient is that of the undivided batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.train.batch import Batch
from pipeline.train.distributed import Group
from pipeline.train.inputs import to_model_inputs
from pipeline.train.mixing import mix64

PARTS = ("masked_lm", "masked_image", "alignment")
"""The three losses, in the order of every tensor [3] here."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """What turns batches into losses; the same at every step."""

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


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What a global batch gave, summed over all ranks and parts."""

    sums: Tensor
    """[3] float32."""
    counts: Tensor
    """[3] int64, what each sum is divided by."""
    unread: int
    """Rows of the batch that could not be read, and taught nothing."""

    @property
    def means(self) -> Tensor:
        """[3]; 0 where nothing was labelled."""
        return self.sums / self.counts.clamp(min=1)


def seed_of(task: Task, step: int, rank: int, part: int) -> int:
    """Return the seed of one forward pass: the same in a run that was resumed, another for every pass."""
    words = np.zeros(1, np.uint64)
    for word in (task.seed, step, rank, part):
        words = mix64(words + np.uint64(word))
    return int(words[0] >> np.uint64(1))


def forward_sums(model: nn.Module, inputs: dict[str, Tensor], task: Task, generator: torch.Generator | None) -> Tensor:
    """Return the three losses of a part as sums, [3] float32, attached to the graph."""
    with torch.autocast(inputs["input_ids"].device.type, torch.bfloat16, enabled=task.bfloat16):
        output: Any = model(**inputs, generator=generator)
    return torch.stack([getattr(output, part).sum for part in PARTS])


def negatives_generator(task: Task, seed: int) -> torch.Generator | None:
    """Return what draws the negatives of masked regions, where the model wants any."""
    return torch.Generator().manual_seed(seed) if task.visual_target == 2 else None


def backward(model: nn.Module, parts: Sequence[Batch], task: Task, group: Group, step: int) -> Losses:
    """Run a rank's parts of a global batch forward and backward; gradients are then those of the whole batch.

    model: the model, or DistributedDataParallel around it, which averages gradients over ranks at the last part.
    """
    counts = torch.stack([part.counts(task.visual_target, task.feature_dim) for part in parts]).sum(0)
    counts = group.sum(counts)
    sums = torch.zeros(len(PARTS), device=group.device)
    for number, part in enumerate(parts):
        seed = seed_of(task, step, group.rank, number)
        torch.manual_seed(seed)  # dropout's
        inputs = to_model_inputs(part, group.device, num_classes=task.num_classes, visual_target=task.visual_target)
        last = number == len(parts) - 1
        with contextlib.nullcontext() if last or group.world == 1 else model.no_sync():  # type: ignore[operator]
            part_sums = forward_sums(model, inputs, task, negatives_generator(task, seed))
            loss = (part_sums / counts.clamp(min=1)).sum() * group.world
            loss.backward()  # type: ignore[no-untyped-call]
        sums += part_sums.detach()
    unread = sum(part.unread for part in parts)
    totals = group.sum(torch.cat([sums.double(), sums.new_tensor([unread]).double()]))
    return Losses(sums=totals[:3].float(), counts=counts, unread=int(totals[3]))
