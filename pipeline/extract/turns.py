"""Turns of shards at a worker's detector.

On a GPU two shards take turns, each on its own CUDA stream: while one uses the GPU, the CPU resizes the pixels, selects
the regions and writes the samples of the other. On a CPU they would compete for the same cores.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from queue import SimpleQueue

GPU_TURNS = 2
"""Shards at a time."""


class Turns:
    """Lets one thread, or on a GPU two, use the detector, and measures the time that it processes images."""

    def __init__(self, device: str) -> None:
        self._free: SimpleQueue[AbstractContextManager[object]] = SimpleQueue()
        places = _cuda_streams() if device == "cuda" else [nullcontext()]
        for place in places:
            self._free.put(place)
        self.shared = len(places) > 1
        """Whether two shards may be at the detector."""
        self._changed = threading.Condition()
        self._closed = False
        self._busy = 0
        self._since = 0.0
        self._seconds = 0.0

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Wait for the detector and use it inside the block."""
        place = self._free.get()
        try:
            with place:
                yield
        finally:
            self._free.put(place)

    @contextmanager
    def at_images(self, *, alone: bool = False) -> Iterator[None]:
        """Count the seconds of the block; those of two threads at a time count once.

        alone: wait until no other thread is in such a block, and let none into one meanwhile.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._closed)
            self._closed = alone
            if alone:
                self._changed.wait_for(lambda: not self._busy)
            self._count(1)
        try:
            yield
        finally:
            with self._changed:
                self._count(-1)
                if alone:
                    self._closed = False
                self._changed.notify_all()

    def _count(self, more: int) -> None:
        now = time.perf_counter()
        if self._busy:
            self._seconds += now - self._since
        self._since = now
        self._busy += more

    def take_seconds(self) -> float:
        """Return the seconds that the detector processed images since the last call."""
        with self._changed:
            taken, self._seconds = self._seconds, 0.0
        return taken


def _cuda_streams() -> list[AbstractContextManager[object]]:
    import torch

    torch.cuda.synchronize()  # the detector's weights are there, for whichever stream
    stream: type[torch.cuda.Stream] = torch.cuda.Stream
    return [torch.cuda.stream(stream()) for _ in range(GPU_TURNS)]
