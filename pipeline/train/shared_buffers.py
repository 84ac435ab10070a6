"""Memory that a worker process writes features into and the training process reads, used again and again.

The features of a batch are megabytes. Sent as they are they would be copied; in fresh shared memory, the system would
have to find and clear pages for each batch, which takes longer than filling them. So a worker keeps its buffers. Their
first byte says whose turn it is: the worker sets it when it takes a buffer, the training process clears it when nobody
holds the batch any more. Where all are taken the worker makes another: keeping batches costs their memory, no more.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_HEADER = 64  # of which one byte is used: the rest keeps features aligned
_FREE, _TAKEN = 0, 1


class Sent(NamedTuple):
    """What goes through the pipe in place of features."""

    worker: int
    """Whose buffer it is."""
    number: int
    """Which of its buffers."""
    buffer: Tensor | None
    """The buffer itself, uint8, when it is sent for the first time."""
    shape: tuple[int, ...]
    """Of the float16 features at its beginning."""


class WorkerBuffers:
    """The buffers of this worker process."""

    def __init__(self, worker: int) -> None:
        self._worker = worker
        self._buffers: list[Tensor] = []
        self._sent = 0  # the first so many were sent before

    def take(self, shape: tuple[int, ...], room: int) -> Tensor:
        """Return memory for features of `shape`, float16; its content is whatever it is.

        room: numbers that a new buffer has room for; the same each time, so that buffers serve again.
        """
        wanted = _HEADER + 2 * int(np.prod(shape))
        fitting = (buffer for buffer in self._buffers if buffer[0] == _FREE and len(buffer) >= wanted)
        buffer = next(fitting, None)
        if buffer is None:
            # What torch's own collation writes into; share_memory_() would move memory that is filled already.
            storage = torch.UntypedStorage._new_shared(max(wanted, _HEADER + 2 * room))  # type: ignore[no-untyped-call]
            buffer = torch.empty(0, dtype=torch.uint8).set_(storage)
            self._buffers.append(buffer)
        buffer[0] = _TAKEN
        return buffer[_HEADER:wanted].view(torch.float16).view(shape)

    def send(self, features: Tensor) -> Sent | Tensor:
        """Return what to send in place of `features`, which is itself where it lies in no buffer."""
        where = features.untyped_storage().data_ptr()
        number = next((n for n, it in enumerate(self._buffers) if it.untyped_storage().data_ptr() == where), None)
        if number is None:
            return features
        is_new = number >= self._sent
        self._sent = max(self._sent, number + 1)
        return Sent(self._worker, number, self._buffers[number] if is_new else None, tuple(features.shape))


class ReceivedBuffers:
    """The buffers of all workers, as the training process sees them."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, int], Tensor] = {}

    def receive(self, sent: Sent) -> Tensor:
        """Return the features that were sent; their buffer is free again when no tensor looks into it any more."""
        if sent.buffer is not None:
            self._buffers[sent.worker, sent.number] = sent.buffer
        memory: NDArray[Any] = self._buffers[sent.worker, sent.number].numpy()
        size = 2 * int(np.prod(sent.shape))
        features = memory[_HEADER : _HEADER + size].view(np.float16).reshape(sent.shape)
        # The tensor's memory holds this array, and whoever holds the memory holds the array with it.
        weakref.finalize(features, _release, memory).atexit = False
        return torch.from_numpy(features)


def _release(memory: NDArray[np.uint8]) -> None:
    memory[0] = _FREE


_of_this_worker: WorkerBuffers | None = None


def begin_worker(number: int) -> None:
    """Make this process a worker: from now on `empty_features` gives memory that can be sent."""
    global _of_this_worker  # what a process is, is a fact about the process
    _of_this_worker = WorkerBuffers(number)


def empty_features(shape: tuple[int, ...], *, room: int) -> Tensor:
    """Return memory for features, float16 of `shape`, not written yet; see `WorkerBuffers.take`."""
    if _of_this_worker is None:
        return torch.empty(shape, dtype=torch.float16)
    return _of_this_worker.take(shape, room)


def send_features(features: Tensor) -> Sent | Tensor:
    """Return what a worker sends in place of features; see `WorkerBuffers.send`."""
    return features if _of_this_worker is None else _of_this_worker.send(features)
