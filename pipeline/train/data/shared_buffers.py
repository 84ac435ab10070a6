"""Memory that a worker process writes features into and the training process reads, used again and again.

The features of a batch are megabytes. Sent as they are they would be copied; in fresh shared memory, the system would
have to find and clear pages for each batch, which takes longer than filling them. So a worker keeps its buffers. Their
first byte says whose turn it is: the worker sets it when it takes a buffer, the training process clears it when nobody
holds the batch any more. Where all are taken the worker makes another: keeping batches costs their memory, no more.

A buffer is a file without a name that lies in memory (memfd), whose descriptor is sent to the training process. It ends
with the last process that has it. /dev/shm, which containers often limit to 64 MB, is not used.
"""

from __future__ import annotations

import functools
import logging
import mmap
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vilbert.pipeline.errors import LoaderError

logger = logging.getLogger(__name__)

SHARED_MEMORY = "/dev/shm"  # noqa: S108 # only its size is looked at
_HEADER = 64  # of which one byte is used: the rest keeps features aligned
_FREE, _TAKEN = 0, 1


class Sent(NamedTuple):
    """What goes through the pipe in place of features."""

    worker: int
    """Whose buffer it is."""
    number: int
    """Which of its buffers."""
    shape: tuple[int, ...]
    """Of the features at its beginning."""
    dtype: str
    """Of these features: float16, or int8 or uint8 where they are codes."""


class WorkerBuffers:
    """The buffers of this worker process."""

    def __init__(self, worker: int) -> None:
        self._worker = worker
        self._buffers: list[Tensor] = []
        self._new: list[int] = []

    def take(self, shape: tuple[int, ...], room: int, dtype: torch.dtype = torch.float16) -> Tensor:
        """Return memory for features of `shape`; its content is whatever it is.

        room: numbers that a new buffer has room for; the same each time, so that buffers serve again.
        """
        wanted = _HEADER + dtype.itemsize * int(np.prod(shape))
        fitting = (buffer for buffer in self._buffers if buffer[0] == _FREE and len(buffer) >= wanted)
        buffer = next(fitting, None)
        if buffer is None:
            size = max(wanted, _HEADER + dtype.itemsize * room)
            descriptor = _file_in_memory(size)
            buffer = torch.frombuffer(mmap.mmap(descriptor, size), dtype=torch.uint8)
            self._buffers.append(buffer)
            self._new.append(descriptor)
        buffer[0] = _TAKEN
        return buffer[_HEADER:wanted].view(dtype).view(shape)

    def send(self, features: Tensor) -> Sent | Tensor:
        """Return what to send in place of `features`, which is itself where it lies in no buffer."""
        where = features.untyped_storage().data_ptr()
        number = next((n for n, it in enumerate(self._buffers) if it.untyped_storage().data_ptr() == where), None)
        if number is None:
            return features
        return Sent(self._worker, number, tuple(features.shape), features.numpy().dtype.name)

    def new(self) -> list[int]:
        """Return the descriptors of buffers made since the last call, in their order; the caller closes them."""
        found, self._new = self._new, []
        return found


def _file_in_memory(size: int) -> int:
    """Return the descriptor of a new file of `size` bytes that has no name.

    Raises LoaderError if there is no room.
    """
    try:
        return _anonymous_file(size)
    except (AttributeError, OSError):  # not on Linux, or a sandbox that does not know it
        try:
            with tempfile.TemporaryFile(prefix="vilbert-batch-") as file:
                _allocate(file.fileno(), size)
                return os.dup(file.fileno())
        except OSError as error:
            raise LoaderError(
                f"{tempfile.gettempdir()}: no room to pass a batch of {size:,} bytes between processes ({error}); free "
                "space there, set TMPDIR to another folder, or give --num-workers 0"
            ) from error


def _anonymous_file(size: int) -> int:
    descriptor = os.memfd_create("vilbert-batch")
    try:
        os.ftruncate(descriptor, size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _allocate(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)  # else a full disk is SIGBUS when it is written to
    else:  # macOS
        os.ftruncate(descriptor, size)


class ReceivedBuffers:
    """The buffers of all workers, as the training process sees them."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[int, int], NDArray[np.uint8]] = {}

    def add(self, worker: int, descriptors: Iterable[int]) -> None:
        """Take a worker's new buffers, in the order in which it made them; their descriptors are closed."""
        first = sum(key[0] == worker for key in self._buffers)
        for number, descriptor in enumerate(descriptors, first):
            size = os.fstat(descriptor).st_size
            self._buffers[worker, number] = np.frombuffer(mmap.mmap(descriptor, size), dtype=np.uint8)
            os.close(descriptor)
            say_that_shared_memory_is_small(size)

    def receive(self, sent: Sent) -> Tensor:
        """Return the features that were sent; their buffer is free again when no tensor looks into it any more."""
        memory = self._buffers[sent.worker, sent.number]
        dtype = np.dtype(sent.dtype)
        size = dtype.itemsize * int(np.prod(sent.shape))
        features = memory[_HEADER : _HEADER + size].view(dtype).reshape(sent.shape)
        # The tensor's memory keeps a reference to this array, so the array lives as long as the memory.
        weakref.finalize(features, _release, memory).atexit = False
        return torch.from_numpy(features)


def _release(memory: NDArray[np.uint8]) -> None:
    memory[0] = _FREE


@functools.cache
def _shared_memory_bytes() -> int | None:
    try:
        return shutil.disk_usage(SHARED_MEMORY).total
    except OSError:
        return None


_said = False


def say_that_shared_memory_is_small(size: int) -> None:
    """Say once that /dev/shm has no room for a batch of `size` bytes: not needed here, but by what may come next."""
    global _said  # once a process
    room = _shared_memory_bytes()
    if not _said and room is not None and room < size:
        _said = True
        logger.info(
            "%s has %s bytes, less than a batch (%s): batches are passed in other memory. NCCL on "
            "several GPUs and Ray need it: in Docker, give --shm-size 2g or --ipc host",
            SHARED_MEMORY, f"{room:,}", f"{size:,}",
        )  # fmt: skip


_of_this_worker: WorkerBuffers | None = None


def begin_worker(number: int) -> None:
    """Make this process a worker: from now on `empty_features` gives memory that can be sent."""
    global _of_this_worker  # what a process is, is a fact about the process
    _of_this_worker = WorkerBuffers(number)


def empty_features(shape: tuple[int, ...], *, room: int, dtype: torch.dtype = torch.float16) -> Tensor:
    """Return memory for features of `shape`, not written yet; see `WorkerBuffers.take`."""
    if _of_this_worker is None:
        return torch.empty(shape, dtype=dtype)
    return _of_this_worker.take(shape, room, dtype)


def send_features(features: Tensor) -> Sent | Tensor:
    """Return what a worker sends in place of features; see `WorkerBuffers.send`."""
    return features if _of_this_worker is None else _of_this_worker.send(features)


def new_buffers() -> list[int]:
    """Return the descriptors of this worker's new buffers; see `WorkerBuffers.new`."""
    return [] if _of_this_worker is None else _of_this_worker.new()
