"""What a run learns, as the loop sees it: losses of a micro-batch and what an evaluation counts.

The loop, its checkpoints and its launchers are the same for pre-training and for every task; this is what differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol, Self

import torch
from torch import Tensor, nn

from vilbert.pipeline.train.engine.distributed import Group


class MicroBatch(Protocol):
    """A part of a global batch, a dataclass of tensors on the CPU."""

    image_ids: tuple[str, ...]
    """Whose regions they are, for messages."""
    unread: int
    """Samples that could not be read, and teach nothing."""
    input_ids: Tensor
    """int64 [N, T]."""
    attention_mask: Tensor
    """int64 [N, T], 1 where a word is."""
    region_mask: Tensor
    """int64 [images, R], 1 where a region is."""
    features: Tensor
    """By far the most of it; the loader sends it in memory that is shared."""

    def pin_memory(self) -> Self:
        """Return it in page-locked memory."""


class Evaluation(Protocol):
    """What was counted over all held-out samples."""

    def figures(self) -> dict[str, float]:
        """Return losses and metrics by name."""


class Objective(Protocol):
    """Losses by name, and how good a model is."""

    @property
    def stage(self) -> str:
        """What the run is called: the command, and the task."""

    @property
    def parts(self) -> tuple[str, ...]:
        """P names of losses; their means are added up."""

    @property
    def seed(self) -> int:
        """Of dropout, and of whatever a loss draws."""

    @property
    def capturable(self) -> bool:
        """Whether `sums` and its backward pass wait for no GPU and draw from its own generator alone, as a CUDA graph
        wants."""

    def counts(self, part: Any) -> Tensor:
        """Return what each loss is divided by, int64 [P], known from the labels of a micro-batch."""

    def sums(self, model: nn.Module, part: Any, device: torch.device, seed: int) -> Tensor:
        """Return each loss of a micro-batch as a sum, [P] float32, attached to the graph."""

    def evaluate(self, model: Any, batches: Iterable[list[Any]], group: Group) -> Evaluation:
        """Return what the model gives on this rank's micro-batches and all other ranks', each sample once."""

    def badness(self, figures: Mapping[str, float]) -> float:
        """Return what the best checkpoint has least of."""
