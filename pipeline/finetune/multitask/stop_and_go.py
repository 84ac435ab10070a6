"""Stop-and-go (Lu et al., 12-in-1, CVPR 2020, 3.3): a task that no longer improves trains less until it gets worse.

After every evaluation, a task's metric (higher is better) is compared with its best value. The task stops if it has not
improved for more than `patience` consecutive evaluations, and resumes if it falls clearly below its best value. After
either change, `cooldown` evaluations count as improvements regardless of their result.

Source of the rule: `MultiTaskStopOnPlateau` of facebookresearch/vilbert-multi-task (vilbert/utils.py); its thresholds
are relative to the best value.
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
    """The set of stopped tasks changes at a step."""

    step: int
    """First step, starting at 0, for which it holds."""
    stopped: tuple[bool, ...]
    """Whether each task is stopped."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TaskProgress:
    """State of the rule for one task."""

    best: float = -math.inf
    """Best metric so far."""
    not_better: int = 0
    """Number of consecutive evaluations without improvement."""
    cooling: int = 0
    """Number of next evaluations that count as improvements."""
    stopped: bool = False
    """Whether the task is stopped."""


def after(progress: TaskProgress, metric: float, settings: StopAndGoSettings) -> TaskProgress:
    """Return the state after one more evaluation; a metric of NaN is neither better nor worse."""
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
    """Return whether a task is stopped after each of its evaluations."""
    progress = TaskProgress()
    found = []
    for metric in metrics:
        progress = after(progress, metric, settings)
        found.append(progress.stopped)
    return found


def changes(
    steps: Sequence[int], metrics: Sequence[Sequence[float | None]], settings: StopAndGoSettings
) -> list[Change]:
    """Return the steps at which the set of stopped tasks changes.

    Args:
        steps: Number of steps before each evaluation.
        metrics: For each evaluation a metric per task. None: the task is never evaluated and never stops. NaN: the
            metric could not be computed.
        settings: The rule.
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
