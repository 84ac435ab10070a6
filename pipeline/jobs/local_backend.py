"""A single worker in this process, for trials, debugging and tests."""

from __future__ import annotations

import time
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from vilbert.pipeline.jobs.stall import Pulse
from vilbert.pipeline.jobs.worker import SHARDS_IN_FLIGHT, Description, ShardDone, ShardWorker

STOP_SECONDS = 5.0
"""Seconds that a worker may take to finish its batch before it is abandoned."""


class LocalHandle:
    """A worker whose shards are written by threads of this process."""

    def __init__(self, worker: ShardWorker) -> None:
        self._worker = worker
        self._threads = ThreadPoolExecutor(SHARDS_IN_FLIGHT, thread_name_prefix="shard")
        self._futures: list[Future[Any]] = []
        self._asked = False
        self.stuck = False

    def start(self) -> Future[Description]:
        """Start the worker."""
        self._futures = [started := self._threads.submit(self._worker.start)]
        return started

    def make_shard(self, shard: int, rows: tuple[int, int], retry: bool = False) -> Future[ShardDone]:
        """Write the shard of the rows [start, stop)."""
        future = self._threads.submit(self._worker.make_shard, shard, rows, retry)
        self._futures = [*(one for one in self._futures if not one.done()), future]
        return future

    def pulse(self) -> Pulse:
        """Return the heartbeat."""
        return self._worker.pulse()

    def stop(self) -> None:
        """Make shards in progress end after their current batch, without writing them."""
        self._asked = True
        self._worker.stop()

    def close(self) -> None:
        """End the worker, or after some seconds abandon its threads, because a thread cannot be killed.

        A thread that continues later sees that it was asked to stop.
        """
        self._threads.shutdown(wait=False, cancel_futures=True)
        if self._asked:
            deadline = time.monotonic() + STOP_SECONDS
            while self._is_busy() and time.monotonic() < deadline:
                time.sleep(0.02)
        else:
            self._worker.stop(hung=True)
        self.stuck = self._is_busy()

    def _is_busy(self) -> bool:
        return self._worker.is_preparing() or not all(future.done() for future in self._futures)
