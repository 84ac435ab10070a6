"""Ctrl-C and SIGTERM while a run trains: the step under way is finished, an evaluation under way is not."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

import torch

from vilbert.pipeline.signals import handling, interrupt
from vilbert.pipeline.train.engine.distributed import Group

T = TypeVar("T")


class InterruptedEvaluationError(Exception):
    """A signal ended an evaluation before its last batch. Never leaves the training loop."""


@contextmanager
def interruption() -> Iterator[threading.Event]:
    """Yield an event that Ctrl-C or SIGTERM sets, so that the step under way can end; a second one ends it at once.

    It is never set where training runs in a thread, as under Ray Train, which stops its workers itself.
    """
    event = threading.Event()

    def note(signum: int, frame: FrameType | None) -> None:
        if event.is_set():
            interrupt(signum, frame)
        event.set()

    with handling(note, signal.SIGINT, signal.SIGTERM):
        yield event


def is_interrupted(interrupted: threading.Event, group: Group) -> bool:
    """Return whether the event is set in any process of the group; the same in all of them."""
    if group.world == 1:
        return interrupted.is_set()
    return bool(group.sum(torch.tensor(int(interrupted.is_set()))))


def until_interrupted(batches: Iterable[T], interrupted: threading.Event, group: Group) -> Iterator[T]:
    """Yield batches, as many in each process of the group.

    Raises:
        InterruptedEvaluationError: The event is set in a process; raised in all of them before the same batch.
    """
    remaining = iter(batches)
    while not is_interrupted(interrupted, group):
        try:
            batch = next(remaining)
        except StopIteration:
            return
        yield batch
    raise InterruptedEvaluationError
