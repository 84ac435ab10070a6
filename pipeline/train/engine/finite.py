"""Losses and gradients that are no finite numbers, looked for without waiting for a GPU at each step.

On a CPU, and where such steps are to be skipped and counted (`--non-finite skip`), each step is looked at before the
optimizer's. On a GPU where they end the run, the optimizer leaves the step out by itself, on the device,
and what happened is read before anything is logged, evaluated or saved: nothing that came of it is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vilbert.pipeline.train.engine.step import Losses


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What a step gave, on its device."""

    step: int
    """Steps done before it."""
    losses: Losses
    norm: Tensor
    """[] of all gradients, before clipping."""

    @property
    def finite(self) -> Tensor:
        """[] bool, whether losses and gradients are finite numbers."""
        return torch.isfinite(self.losses.sums).all() & torch.isfinite(self.norm)


class Unchecked:
    """Steps that have not been checked for finite values."""

    def __init__(self) -> None:
        self._results: list[tuple[StepResult, Tensor]] = []

    def add(self, result: StepResult, finite: Tensor) -> None:
        """Take a step that is looked at later."""
        self._results.append((result, finite))

    def first_bad(self) -> StepResult | None:
        """Return the first non-finite step, or None, and clear the list. Synchronises a GPU."""
        results, self._results = self._results, []
        if not results:
            return None
        finite = torch.stack([finite for _, finite in results]).tolist()
        return next((result for (result, _), is_finite in zip(results, finite, strict=True) if not is_finite), None)
