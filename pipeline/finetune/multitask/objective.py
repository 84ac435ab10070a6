"""The objective of several tasks: each batch belongs to one task, and an evaluation covers every task.

Shapes: P tasks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from itertools import groupby

import torch
from torch import Tensor, nn

from vilbert.model.tasks import ViLBertForTasks
from vilbert.pipeline.tasks.batch import ItemBatch
from vilbert.pipeline.tasks.objective import TaskEvaluation, TaskObjective
from vilbert.pipeline.train.engine.distributed import Group

SCORE = "score"
"""Metric that selects the best checkpoint: the mean of the tasks' main metrics."""


@dataclass(kw_only=True)
class TaskBatch(ItemBatch):
    """A micro-batch with the index of its task."""

    number: int
    """Index of the task."""


def of_task(part: ItemBatch, number: int) -> TaskBatch:
    """Return a micro-batch with task index `number`."""
    return TaskBatch(number=number, **{one.name: getattr(part, one.name) for one in fields(part)})


@dataclass(frozen=True, kw_only=True)
class MultitaskEvaluation:
    """The evaluations of every task."""

    by_task: Mapping[str, TaskEvaluation]
    """Evaluations by task name."""
    metrics: Mapping[str, str]
    """Name of the main metric by task name."""

    def figures(self) -> dict[str, float]:
        """Return the mean main metric as `score`, the sum of losses, and the metrics of each task prefixed by name.

        Metrics that could not be computed are left out.
        """
        found = {
            f"{name}_{figure}": value
            for name, evaluation in self.by_task.items()
            for figure, value in evaluation.figures().items()
        }
        scores = [found[key] for name, metric in self.metrics.items() if (key := f"{name}_{metric}") in found]
        losses = [one.loss for one in self.by_task.values() if one.loss is not None]
        score = {SCORE: sum(scores) / len(scores)} if scores else {}
        return {**score, **({"loss": sum(losses)} if losses else {}), **found}


@dataclass(frozen=True, kw_only=True)
class MultitaskObjective:
    """The losses of several tasks, one per step, and their evaluation."""

    tasks: tuple[TaskObjective, ...]
    """The objective of each task."""
    weights: tuple[float, ...]
    """Factor of each task's loss."""
    seed: int
    """Seed of dropout."""
    stage: str = "finetune multitask"
    capturable: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """The tasks' names."""
        return tuple(one.task.name for one in self.tasks)

    def counts(self, part: TaskBatch) -> Tensor:
        """Return the divisor of the loss of the batch's task, 0 for the others, int64 [P]."""
        return torch.tensor([part.count if number == part.number else 0 for number in range(len(self.tasks))])

    def sums(self, model: nn.Module, part: TaskBatch, device: torch.device, seed: int) -> Tensor:
        """Return the summed loss of the batch's task, 0 for the others, float32 [P]."""
        found = self.tasks[part.number].sums(model, part, device, seed)[0] * self.weights[part.number]
        nothing = torch.zeros((), device=device)
        return torch.stack([found if number == part.number else nothing for number in range(len(self.tasks))])

    def evaluate(self, model: ViLBertForTasks, batches: Iterable[list[TaskBatch]], group: Group) -> MultitaskEvaluation:
        """Evaluate all tasks; batches of a task must be consecutive."""
        found = {}
        for number, of_it in groupby(batches, key=lambda parts: parts[0].number):
            one = self.tasks[number]
            found[one.task.name] = one.evaluate(model, of_it, group)
        metrics = {one.task.name: one.task.metric for one in self.tasks if one.task.name in found}
        return MultitaskEvaluation(by_task=found, metrics=metrics)

    def badness(self, figures: Mapping[str, float]) -> float:
        """Return the negated mean of the main metrics; NaN if none could be computed."""
        return -figures.get(SCORE, math.nan)
