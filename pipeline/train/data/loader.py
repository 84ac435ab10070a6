"""Batches of consecutive steps, made by worker processes while the model trains, and handed over in order.

A batch is a function of its step, so workers share nothing, and which of them makes it does not matter. Any step can be
the first: there is nothing to wind forward to.
"""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable, Generator
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from vilbert.pipeline.train.data.loader_processes import LoaderProcesses
from vilbert.pipeline.train.data.shared_buffers import ReceivedBuffers, Sent, begin_worker, new_buffers, send_features
from vilbert.pipeline.train.engine.objective import MicroBatch

B = TypeVar("B", bound=MicroBatch)


def batches(
    make: Callable[[int], list[B]], steps: range, *, num_workers: int, prefetch: int = 2, pin_memory: bool = False
) -> Generator[list[B], None, None]:
    """Yield `make(step)` for each of `steps`, in order.

    num_workers: processes that make them; 0 makes them in this one, when they are asked for. prefetch: steps that a
    worker is ahead. pin_memory: whether to hand them over in page-locked memory.
    Raises what `make` raises, whichever process it happened in; the traceback of a worker is a note of the error.
    LoaderError where a worker dies. No global generator is drawn from. Closing the iterator ends the workers; they end
    with this process in any case.
    """
    if num_workers == 0:
        for step in steps:
            made = make(step)
            yield [batch.pin_memory() for batch in made] if pin_memory else made
        return
    loader = LoaderProcesses(
        partial(_message, make), steps, num_workers=num_workers, prefetch=prefetch, begin=_begin_worker
    )
    buffers = ReceivedBuffers()
    try:
        for step in steps:
            content, descriptors, worker = loader.receive(step)
            buffers.add(worker, descriptors)
            made = _unpack(pickle.loads(content), buffers)  # noqa: S301 # from a process of our own
            yield [batch.pin_memory() for batch in made] if pin_memory else made
    finally:
        loader.close()


def _begin_worker(number: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one worker, one core; and threads do not survive a fork
    torch.set_num_threads(1)
    begin_worker(number)


def _message(make: Callable[[int], list[Any]], step: int) -> tuple[bytes, list[int]]:
    """Return a step as a message to the training process, and the shared memory that is new in it."""
    message: list[tuple[type, dict[str, Any]]] | _Failure
    try:
        message = [_pack(batch) for batch in make(step)]
    except Exception as error:  # it is raised again in the training process, as what it is
        message = _Failure(_sendable(error), traceback.format_exc())
    return pickle.dumps(message, pickle.HIGHEST_PROTOCOL), new_buffers()


@dataclass
class _Failure:
    """An error that happened in a worker, and where."""

    error: Exception
    trace: str


def _sendable(error: Exception) -> Exception:
    """Return the error, or one that says the same where it does not survive being sent."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 # our own
    except Exception:  # a constructor of its own may raise anything
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


def _pack(batch: Any) -> tuple[type, dict[str, Any]]:
    """Return the fields of a batch to be sent.

    Features lie in memory that is shared for good; all else is small and goes through the socket as arrays.
    """
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    values["features"] = send_features(batch.features)
    return type(batch), {name: _as_arrays(value) for name, value in values.items()}


def _as_arrays(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _as_arrays(part) for name, part in value.items()}
    return value.numpy() if isinstance(value, Tensor) else value


def _unpack(message: list[tuple[type, dict[str, Any]]] | _Failure, buffers: ReceivedBuffers) -> list[Any]:
    if isinstance(message, _Failure):
        message.error.add_note(f"In a worker process:\n{message.trace}")
        raise message.error
    return [kind(**{name: _receive(value, buffers) for name, value in values.items()}) for kind, values in message]


def _receive(value: Any, buffers: ReceivedBuffers) -> Any:
    if isinstance(value, Sent):
        return buffers.receive(value)
    if isinstance(value, dict):
        return {name: _receive(part, buffers) for name, part in value.items()}
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
