"""The objective of several tasks: each batch is one task's, and an evaluation is one of every task.

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
"""The figure that says which checkpoint is best: the mean of the tasks' metrics."""


@dataclass(kw_only=True)
class TaskBatch(ItemBatch):
    """A micro-batch that knows which task it is of."""

    number: int
    """Of the task."""


def of_task(part: ItemBatch, number: int) -> TaskBatch:
    """Return a micro-batch as one of task `number`."""
    return TaskBatch(number=number, **{one.name: getattr(part, one.name) for one in fields(part)})


@dataclass(frozen=True, kw_only=True)
class MultitaskEvaluation:
    """What a model answered to the items of every task."""

    by_task: Mapping[str, TaskEvaluation]
    """By name, those that are evaluated."""
    metrics: Mapping[str, str]
    """Of each, the name of its metric."""

    def figures(self) -> dict[str, float]:
        """Return the mean of the metrics as `score`, the sum of losses, and each task's figures, its name before.

        What was not measured is left out.
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
    """The losses of several tasks, one in each step, and how good a model is at all of them."""

    tasks: tuple[TaskObjective, ...]
    """Each alone."""
    weights: tuple[float, ...]
    """What their losses are multiplied by."""
    seed: int
    """Of dropout."""
    stage: str = "finetune multitask"
    capturable: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """The tasks' names."""
        return tuple(one.task.name for one in self.tasks)

    def counts(self, part: TaskBatch) -> Tensor:
        """Return what the loss of the part's task is divided by, 0 for the others, int64 [P]."""
        return torch.tensor([part.count if number == part.number else 0 for number in range(len(self.tasks))])

    def sums(self, model: nn.Module, part: TaskBatch, device: torch.device, seed: int) -> Tensor:
        """Return the loss of the part's task as a sum, 0 for the others, [P] float32."""
        found = self.tasks[part.number].sums(model, part, device, seed)[0] * self.weights[part.number]
        nothing = torch.zeros((), device=device)
        return torch.stack([found if number == part.number else nothing for number in range(len(self.tasks))])

    def evaluate(self, model: ViLBertForTasks, batches: Iterable[list[TaskBatch]], group: Group) -> MultitaskEvaluation:
        """Return what the model answers to all items, those of a task one after the other."""
        found = {}
        for number, of_it in groupby(batches, key=lambda parts: parts[0].number):
            one = self.tasks[number]
            found[one.task.name] = one.evaluate(model, of_it, group)
        metrics = {one.task.name: one.task.metric for one in self.tasks if one.task.name in found}
        return MultitaskEvaluation(by_task=found, metrics=metrics)

    def badness(self, figures: Mapping[str, float]) -> float:
        """Return the mean of the tasks' metrics with its sign turned; NaN where none was measured."""
        return -figures.get(SCORE, math.nan)
