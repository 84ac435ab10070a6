"""Which task has which step of a run of several tasks: a pure function of weights, of stops, and of the step.

Each step is a global batch of one task. A task of weight w has its turn j at time (j + 1/2) / w, and turns are taken in
the order of their times; so after any number of steps each task has had its share of them, up to one turn or so. Equal
weights are a round robin; weights that are batches an epoch make every task begin its next epoch at about the same
step. A task that has stopped has `gap` times fewer turns, and those that go on have the steps that are left.

Which tasks have stopped changes only at evaluations. What lies between two changes is a segment; times begin anew in
each, so a segment is known from its first step and its stops alone.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.finetune.multitask.stop_and_go import Change

Integers = NDArray[np.int64]


def take_turns(weights: Sequence[float], steps: int) -> Integers:
    """Return the task of each step of a segment, int64 [steps].

    After k steps no task of n is further than (n + 1) / 2 turns from its share of k. Ties go to the task listed first.
    """
    shares = np.asarray(weights, dtype=np.float64)
    most = np.ceil(steps * shares / shares.sum()).astype(np.int64) + len(shares) + 1
    tasks = np.repeat(np.arange(len(shares)), most)
    times = np.concatenate([(np.arange(count) + 0.5) / share for count, share in zip(most, shares, strict=True)])
    return tasks[np.lexsort((tasks, times))][:steps].astype(np.int64)


def plan_turns(weights: Sequence[float], changes: Sequence[Change], *, gap: int, steps: int) -> Integers:
    """Return the task of each step of a run, int64 [steps].

    weights: of each task, above 0. changes: in the order of their steps; before the first none has stopped. gap: how
    many times fewer turns a task has that has stopped. Raises ValueError where changes are out of order.
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
    """Return which turn of its task each step is, from 0, int64 [steps]: the number of the batch in the task's stream.

    A task's batches thus come one after the other whatever the other tasks do, and each of its samples once in an epoch
    of its own.
    """
    own = np.empty(len(turns), dtype=np.int64)
    for task in range(tasks):
        of_it = np.flatnonzero(turns == task)
        own[of_it] = np.arange(len(of_it))
    return own


def steps_of_run(batches: Sequence[int], *, by_size: bool) -> int:
    """Return the steps after which the tasks have been seen as often as asked.

    batches: that each task needs for it. In a round robin all go on until the longest has had them; by size each ends
    when it has.
    """
    return sum(batches) if by_size else len(batches) * max(batches)
