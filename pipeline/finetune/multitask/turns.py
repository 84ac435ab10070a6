"""The order of tasks in a run: a pure function of weights, stops and the step.

Each step is a global batch of one task. Turn j of a task with weight w takes place at time (j + 1/2) / w, and turns are
ordered by time. So after any number of steps each task has had its share, up to about one turn. Equal weights give a
round robin; if the weights are batches per epoch, all tasks start their epochs at about the same step. A stopped task
has `gap` times fewer turns, and the others share the remaining steps.

The set of stopped tasks changes only at evaluations. A segment is the interval between two changes. Times restart in
each segment, so its order depends only on its first step and its stopped tasks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.finetune.multitask.stop_and_go import Change

Integers = NDArray[np.int64]


def take_turns(weights: Sequence[float], steps: int) -> Integers:
    """Return the task of each step of a segment, int64 [steps].

    After k steps each of n tasks deviates by at most (n + 1) / 2 turns from its share of k. Ties go to the task listed
    first.
    """
    shares = np.asarray(weights, dtype=np.float64)
    most = np.ceil(steps * shares / shares.sum()).astype(np.int64) + len(shares) + 1
    tasks = np.repeat(np.arange(len(shares)), most)
    times = np.concatenate([(np.arange(count) + 0.5) / share for count, share in zip(most, shares, strict=True)])
    return tasks[np.lexsort((tasks, times))][:steps].astype(np.int64)


def plan_turns(weights: Sequence[float], changes: Sequence[Change], *, gap: int, steps: int) -> Integers:
    """Return the task of each step of a run, int64 [steps].

    Args:
        weights: Positive weight of each task.
        changes: Changes in the order of their steps; no task is stopped before the first one.
        gap: Factor by which the number of turns of a stopped task is reduced.
        steps: Number of steps of the run.

    Raises:
        ValueError: Changes are out of order.
    """
    begins = [0, *(min(change.step, steps) for change in changes)]
    if begins != sorted(begins):
        raise ValueError(f"changes at steps {begins[1:]}: give them in ascending order")
    stops = [(False,) * len(weights), *(change.stopped for change in changes)]
    parts = [
        take_turns(
            [weight / gap if is_stopped else weight for weight, is_stopped in zip(weights, stopped, strict=True)],
            end - begin,
        )
        for begin, end, stopped in zip(begins, [*begins[1:], steps], stops, strict=True)
    ]
    return np.concatenate(parts)


def own_steps(turns: Integers, tasks: int) -> Integers:
    """Return the index of each step among the steps of its task, int64 [steps]: the batch index in the task's stream.

    A task's batches are therefore consecutive regardless of other tasks, and each sample occurs once per epoch of its
    task.
    """
    own = np.empty(len(turns), dtype=np.int64)
    for task in range(tasks):
        of_it = np.flatnonzero(turns == task)
        own[of_it] = np.arange(len(of_it))
    return own


def steps_of_run(batches: Sequence[int], *, by_size: bool) -> int:
    """Return the number of steps of a run.

    Args:
        batches: Number of batches that each task needs.
        by_size: Whether each task ends after its batches; otherwise (round robin) all continue until the longest ends.
    """
    return sum(batches) if by_size else len(batches) * max(batches)
