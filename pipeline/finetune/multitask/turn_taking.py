"""The tasks of a run taking turns: what `Steering` asks for, from what evaluations gave so far.

All that a run decides as it goes follows from its evaluations, so these are what a checkpoint keeps.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from vilbert.pipeline.finetune.multitask.stop_and_go import Change, StopAndGoSettings, changes
from vilbert.pipeline.finetune.multitask.turns import Integers, own_steps, plan_turns


class Plan(NamedTuple):
    """The task of each step of the run, as it stands; int64 [steps] each."""

    turns: Integers
    """Number of the task."""
    own: Integers
    """Which batch of that task."""


@dataclass(kw_only=True)
class TurnTaking:
    """Which task has which step; changed by evaluations alone."""

    metrics: tuple[str | None, ...]
    """Of each task, the figure that says how good the model is at it; None where it is not evaluated."""
    weights: tuple[float, ...]
    """Of each task, how many turns it has beside the others."""
    batch_sizes: tuple[int, ...]
    """Of each task."""
    steps: int
    """Of the run."""
    rule: StopAndGoSettings
    """When a task stops and resumes."""
    evaluations: dict[int, tuple[float | None, ...]] = field(default_factory=dict)
    """By step, the metric of each task."""
    _plan: tuple[list[Change], Plan] | None = None

    def changes(self) -> list[Change]:
        """Return from which steps on which tasks have stopped."""
        return changes(list(self.evaluations), list(self.evaluations.values()), self.rule)

    def plan(self) -> Plan:
        """Return the turns of the run as its evaluations so far have them; steps before the last one are final."""
        found = self.changes()
        if self._plan is None or self._plan[0] != found:
            turns = plan_turns(self.weights, found, gap=self.rule.gap, steps=self.steps)
            self._plan = found, Plan(turns, own_steps(turns, len(self.weights)))
        return self._plan[1]

    def samples(self, step: int) -> int:
        """Return the samples of the first `step` steps, of all tasks."""
        return int(np.asarray(self.batch_sizes)[self.plan().turns[:step]].sum())

    def note(self, step: int, figures: Mapping[str, float]) -> bool:
        """Take what was evaluated after `step` steps; return whether tasks have stopped or resumed."""
        self.evaluations = {at: found for at, found in self.evaluations.items() if at < step}
        before = self.changes()
        self.evaluations[step] = tuple(None if name is None else figures.get(name, math.nan) for name in self.metrics)
        return self.changes() != before

    def state(self) -> Any:
        """Return the evaluations: [step, [a number a task, null for what is none]] each."""
        return [
            [step, [value if value is not None and math.isfinite(value) else None for value in found]]
            for step, found in self.evaluations.items()
        ]

    def restore(self, state: Any) -> None:
        """Take the evaluations of a checkpoint."""
        self.evaluations = {step: tuple(map(self._number, values, self.metrics)) for step, values in state}

    @staticmethod
    def _number(value: float | None, metric: str | None) -> float | None:
        return math.nan if value is None and metric is not None else value
