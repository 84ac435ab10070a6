"""Batches on their way to a GPU: a thread takes them from the loader and copies them, on a stream of its own.

While the GPU works at a step, the batch of the next one is copied to page-locked memory and from there to the GPU. The
training thread waits for neither: it makes its stream wait for the copy's.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, Generic, NamedTuple, TypeVar

import torch

from vilbert.pipeline.train.engine.objective import MicroBatch
from vilbert.pipeline.train.engine.step_graphs import tensors_of, with_tensors

T = TypeVar("T")
R = TypeVar("R")

CLOSE_SECONDS = 10.0
"""How long closing waits for a batch that is being made; the thread ends with the process in any case."""
PATIENCE = 0.2
"""Seconds between checks whether to end while a batch is not taken."""


class Copied(NamedTuple):
    """This rank's parts of a global batch, and the same on the GPU."""

    parts: list[Any]
    """In page-locked memory."""
    on_gpu: list[Any]
    ready: torch.cuda.Event
    """Happens when the copies are whole."""


class Ahead(Generic[T, R]):
    """What a function makes of the items of a generator, one or two items ahead of what is asked for, in a thread.

    The first item is taken in the thread that asks for it: loaders start their processes then.
    """

    def __init__(self, source: Generator[T, None, None], make: Callable[[T], R]) -> None:
        self._source, self._make = source, make
        self._made: queue.Queue[R | BaseException] = queue.Queue(maxsize=1)
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def __iter__(self) -> Ahead[T, R]:
        return self

    def __next__(self) -> R:
        """Return the next result; raise what the generator or the function raised."""
        if self._thread is None:
            first = next(self._source)
            self._thread = threading.Thread(target=self._run, name="copy-ahead", daemon=True)
            self._thread.start()
            return self._make(first)
        found = self._made.get()
        if isinstance(found, BaseException):
            self._put(found)  # later calls raise it again
            raise found
        return found

    def close(self) -> None:
        """End the thread, and close the generator."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(timeout=CLOSE_SECONDS)
            if self._thread.is_alive():
                return
        self._source.close()

    def _run(self) -> None:
        try:
            for item in self._source:
                if not self._put(self._make(item)):
                    return
            self._put(StopIteration())
        except BaseException as error:
            self._put(error)

    def _put(self, found: R | BaseException) -> bool:
        """Hand over a result; return False after `close`."""
        while not self._ending.is_set():
            with suppress(queue.Full):
                self._made.put(found, timeout=PATIENCE)
                return True
        return False


def copied_ahead(source: Generator[list[Any], None, None], device: torch.device) -> Ahead[list[Any], Copied]:
    """Return the batches of a loader with copies on a GPU; call `wait_for` before one is used."""
    stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copy(parts: list[Any]) -> Copied:
        with torch.cuda.device(device), torch.cuda.stream(stream):
            on_gpu = [copied(part, device) for part in parts]
            return Copied(parts, on_gpu, stream.record_event())

    return Ahead(source, copy)


def copied(part: MicroBatch, device: torch.device) -> Any:
    """Return a micro-batch with its tensors on a GPU, copied on the current stream."""
    return with_tensors(part, {name: it.to(device, non_blocking=True) for name, it in tensors_of(part).items()})


def wait_for(batch: Copied) -> None:
    """Let the current stream wait for the copies, and keep their memory until what it does with them is done."""
    stream = torch.cuda.current_stream()
    stream.wait_event(batch.ready)
    for part in batch.on_gpu:
        for tensor in tensors_of(part).values():
            tensor.record_stream(stream)
