"""The order of tasks in a run, computed from its evaluations so far; implements `Steering`.

The order depends only on the evaluations, so these are what a checkpoint stores.
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
    """The current task of each step of the run; int64 [steps] each."""

    turns: Integers
    """Index of the task."""
    own: Integers
    """Index of the batch in the task's stream."""


@dataclass(kw_only=True)
class TurnTaking:
    """The order of tasks, changed only by evaluations."""

    metrics: tuple[str | None, ...]
    """Main metric of each task; None if it is not evaluated."""
    weights: tuple[float, ...]
    """Relative number of steps of each task."""
    batch_sizes: tuple[int, ...]
    """Batch size of each task."""
    steps: int
    """Number of steps of the run."""
    rule: StopAndGoSettings
    """When a task stops and resumes."""
    evaluations: dict[int, tuple[float | None, ...]] = field(default_factory=dict)
    """Metric of each task, by step."""
    _plan: tuple[list[Change], Plan] | None = None

    def changes(self) -> list[Change]:
        """Return the steps at which the set of stopped tasks changes."""
        return changes(list(self.evaluations), list(self.evaluations.values()), self.rule)

    def plan(self) -> Plan:
        """Return the order given the evaluations so far; steps before the last evaluation are final."""
        found = self.changes()
        if self._plan is None or self._plan[0] != found:
            turns = plan_turns(self.weights, found, gap=self.rule.gap, steps=self.steps)
            self._plan = found, Plan(turns, own_steps(turns, len(self.weights)))
        return self._plan[1]

    def samples(self, step: int) -> int:
        """Return the number of samples of all tasks in the first `step` steps."""
        return int(np.asarray(self.batch_sizes)[self.plan().turns[:step]].sum())

    def note(self, step: int, figures: Mapping[str, float]) -> bool:
        """Record the evaluation after `step` steps; return whether tasks have stopped or resumed."""
        self.evaluations = {at: found for at, found in self.evaluations.items() if at < step}
        before = self.changes()
        self.evaluations[step] = tuple(None if name is None else figures.get(name, math.nan) for name in self.metrics)
        return self.changes() != before

    def state(self) -> Any:
        """Return the evaluations as JSON values: [step, [metric of each task or null]] each."""
        return [
            [step, [value if value is not None and math.isfinite(value) else None for value in found]]
            for step, found in self.evaluations.items()
        ]

    def restore(self, state: Any) -> None:
        """Restore the evaluations of a checkpoint."""
        self.evaluations = {step: tuple(map(self._number, values, self.metrics)) for step, values in state}

    @staticmethod
    def _number(value: float | None, metric: str | None) -> float | None:
        return math.nan if value is None and metric is not None else value
