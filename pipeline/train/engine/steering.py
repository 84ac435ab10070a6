"""What evaluations change of the steps that follow, as the loop sees it.

Pre-training and a single task have none: their batches are a function of the step alone. A run of several tasks gives
fewer turns to a task that has stopped getting better, so what was evaluated is part of what its checkpoints hold.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol


class Steering(Protocol):
    """Decides what later steps train, from evaluations alone; the same in every process of a group."""

    def samples(self, step: int) -> int:
        """Return the samples of the first `step` steps, over all ranks."""

    def note(self, step: int, figures: Mapping[str, float]) -> bool:
        """Take what was evaluated after `step` steps; return whether batches from there on are others than before."""

    def state(self) -> Any:
        """Return what a checkpoint keeps, as a JSON value."""

    def restore(self, state: Any) -> None:
        """Put back what `state` gave."""
