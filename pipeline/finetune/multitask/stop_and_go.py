"""Stop-and-go (Lu et al., 12-in-1, CVPR 2020, 3.3): a task that gets no better trains less, until it gets worse.

After every evaluation a task's metric, higher being better, is compared with its best so far. It stops when it has not
improved for more than `patience` evaluations in a row, and resumes when it has fallen clearly below its best. After
either, `cooldown` evaluations count as good whatever they give.

Source of the rule: `MultiTaskStopOnPlateau` of facebookresearch/vilbert-multi-task (vilbert/utils.py); its thresholds
are shares of the best.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from vilbert.settings import NonNegativeInt, PositiveInt, ShareBelowOne, validated


@validated
class StopAndGoSettings:
    """Dynamic stop-and-go of tasks. Defaults are those of 12-in-1."""

    stop_and_go: bool = True
    """Train less often on a task that no longer improves."""
    patience: NonNegativeInt = 1
    """Evaluations without improvement after which the task stops."""
    cooldown: NonNegativeInt = 1
    """Evaluations after a change of state that count as improvement."""
    better: ShareBelowOne = 0.001
    """Minimum relative improvement over the best metric."""
    worse: ShareBelowOne = 0.005
    """Relative loss against the best metric at which a stopped task resumes."""
    gap: PositiveInt = 4
    """A stopped task trains once in this many of its turns."""


class Change(NamedTuple):
    """From a step on, other tasks have stopped than before."""

    step: int
    """The first step, from 0, that it holds for."""
    stopped: tuple[bool, ...]
    """Of each task."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskProgress:
    """What the rule remembers of a task."""

    best: float = -math.inf
    """Its best metric."""
    not_better: int = 0
    """Evaluations in a row that were not."""
    cooling: int = 0
    """Evaluations that will count as good."""
    stopped: bool = False
    """Whether it has stopped."""


def after(progress: TaskProgress, metric: float, settings: StopAndGoSettings) -> TaskProgress:
    """Return what is remembered after one more evaluation; a metric that is NaN is not better, nor worse."""
    is_better = metric > progress.best * (1 + settings.better)
    best = metric if is_better else progress.best
    not_better = 0 if is_better or progress.cooling else progress.not_better + 1
    cooling = max(progress.cooling - 1, 0)
    found = replace(progress, best=best, not_better=not_better, cooling=cooling)
    if not_better > settings.patience:
        return replace(found, stopped=True, cooling=settings.cooldown, not_better=0)
    if progress.stopped and metric < best * (1 - settings.worse):
        return replace(found, stopped=False, cooling=settings.cooldown, not_better=0)
    return found


def stops(metrics: Iterable[float], settings: StopAndGoSettings) -> list[bool]:
    """Return whether a task has stopped after each of its evaluations."""
    progress = TaskProgress()
    found = []
    for metric in metrics:
        progress = after(progress, metric, settings)
        found.append(progress.stopped)
    return found


def changes(
    steps: Sequence[int], metrics: Sequence[Sequence[float | None]], settings: StopAndGoSettings
) -> list[Change]:
    """Return from which steps on which tasks have stopped: of the evaluations after which these are others.

    steps: done before each evaluation. metrics: of each evaluation, a number a task, None where it is never evaluated:
    such a task never stops. NaN is an evaluation that gave no number.
    """
    if not settings.stop_and_go or not steps:
        return []
    by_task = list(zip(*metrics, strict=True))
    stopped = [
        [False] * len(steps) if None in of_task else stops([float(it) for it in of_task if it is not None], settings)
        for of_task in by_task
    ]
    found: list[Change] = []
    now = (False,) * len(by_task)
    for step, flags in zip(steps, zip(*stopped, strict=True), strict=True):
        if flags != now:
            found.append(Change(step, flags))
            now = flags
    return found
