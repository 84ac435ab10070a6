"""One step of the optimizer: a global batch forward and backward, over all ranks and accumulated parts.

Losses are sums over counts. The counts of the whole global batch are known from its labels, so every part divides by
them before it goes backward, and the gradient is that of the undivided batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from vilbert.pipeline.train.data.mixing import mix64
from vilbert.pipeline.train.engine.distributed import Group
from vilbert.pipeline.train.engine.objective import MicroBatch, Objective
from vilbert.pipeline.train.engine.step_graphs import StepGraphs
from vilbert.pipeline.train.engine.working_weights import WorkingWeights


@dataclass(frozen=True, kw_only=True)
class Losses:
    """What a global batch gave, summed over all ranks and parts."""

    sums: Tensor
    """[P] float32."""
    counts: Tensor
    """[P] int64, what each sum is divided by."""
    unread: Tensor
    """[] int64 on the group's device. Rows of the batch that could not be read, and taught nothing."""

    @property
    def means(self) -> Tensor:
        """[P]; 0 where nothing was labelled."""
        return self.sums / self.counts.clamp(min=1)


def seed_of(seed: int, step: int, rank: int, part: int) -> int:
    """Return the seed of one forward pass: the same in a run that was resumed, another for every pass."""
    words = np.zeros(1, np.uint64)
    for word in (seed, step, rank, part):
        words = mix64(words + np.uint64(word))
    return int(words[0] >> np.uint64(1))


def backward(
    model: nn.Module,
    parts: Sequence[MicroBatch],
    objective: Objective,
    group: Group,
    step: int,
    working: WorkingWeights | None = None,
    graphs: StepGraphs | None = None,
    on_gpu: Sequence[MicroBatch] | None = None,
) -> Losses:
    """Run a rank's parts of a global batch forward and backward; gradients are then those of the whole batch.

    model: the model, or DistributedDataParallel around it, which averages gradients over ranks at the last part.
    working: its weights in bfloat16, where it reads those. graphs: of its passes, where they are recorded.
    on_gpu: the parts on the GPU, where they have been copied.
    """
    counts = group.sum(torch.stack([objective.counts(part) for part in parts]).sum(0))
    sums = torch.zeros(len(counts), device=group.device)
    if working is not None:
        working.refresh()
    for number, part in enumerate(parts):
        seed = seed_of(objective.seed, step, group.rank, number)
        torch.manual_seed(seed)  # dropout's
        given = part if on_gpu is None else on_gpu[number]
        replayed = None if graphs is None else graphs.run(given, counts, first=number == 0)
        if replayed is not None:
            sums += replayed
            continue
        last = number == len(parts) - 1
        with contextlib.nullcontext() if last or group.world == 1 else model.no_sync():  # type: ignore[operator]
            part_sums = objective.sums(model, given, group.device, seed)
            loss = (part_sums / counts.clamp(min=1)).sum() * group.world
            loss.backward()  # type: ignore[no-untyped-call]
        if working is not None:
            working.collect()
        sums += part_sums.detach()
        del part_sums, loss  # what they keep of this pass would disturb the recording of the next
    unread = torch.full((1,), sum(part.unread for part in parts), dtype=torch.float64, device=group.device)
    totals = group.sum(torch.cat([sums.double(), unread]))
    return Losses(sums=totals[:-1].float(), counts=counts, unread=totals[-1].long())
