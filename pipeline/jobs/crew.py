"""The worker pool of a run: running workers, starting workers, and their target number.

Workers start while others are running and are added when they are ready. So a node that joins late is used, and a lost
node is not waited for.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Protocol

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.jobs.stall import Pulse
from vilbert.pipeline.jobs.worker import Description, ShardDone

logger = logging.getLogger(__name__)

FAILED_STARTS = 5
"""Number of consecutive workers that may fail while they start; then the run ends if no worker is running."""
SECONDS_BETWEEN_STARTS = 60.0
"""Seconds between starts after that if other workers are running, because a node cannot start workers."""
START_SECONDS = 1800.0
"""Maximum seconds to start a worker, from its first heartbeat; after that it counts as stuck."""
SECONDS_BEFORE_WAITING_IS_SAID = 60.0


class WorkerLostError(Exception):
    """The process of a worker has ended; another worker can process its shards."""


class Handle(Protocol):
    """A worker in this or another process."""

    @property
    def stuck(self) -> bool:
        """Whether it was closed but a thread of this process still runs it."""

    def start(self) -> Future[Description]:
        """Start the worker. The future raises WorkerLostError if the process dies."""

    def make_shard(self, shard: int, rows: tuple[int, int], retry: bool = False) -> Future[ShardDone]:
        """Write the shard of the rows [start, stop); with `retry`, keep its finished samples.

        The future raises WorkerLostError if the worker's process dies.
        """

    def pulse(self) -> Pulse:
        """Return the last known heartbeat, without waiting."""

    def stop(self) -> None:
        """Ask the worker to abandon its shards, without waiting."""

    def close(self) -> None:
        """End the worker within seconds; unfinished shards do not count as finished."""


class Crew:
    """Starts workers, replaces lost ones and closes all of them."""

    def __init__(
        self,
        start_handle: Callable[[], Handle],
        wanted: Callable[[], int],
        *,
        no_process: str = "its process has not started",
    ) -> None:
        """Store a function that makes a worker, and one that returns the number of workers with free resources.

        no_process: Message for a worker whose process takes long to start.
        """
        self._start_handle = start_handle
        self._wanted = wanted
        self._no_process = no_process
        self._first: Description | None = None
        self._check: Callable[[Description], None] = lambda description: None
        self._starting: dict[Future[Description], tuple[Handle, int]] = {}
        """Each with the number of failed starts when it was started."""
        self._alive_since: dict[Future[Description], float] = {}
        """Start times of starting workers that no longer wait for resources of a node."""
        self._failed_starts = 0
        self._failed_at = 0.0
        self._empty_since = time.monotonic()
        self._said = False
        self.ready: list[Handle] = []
        """Workers that accept shards."""
        self.stuck = False
        """Whether a thread of this process hangs in a closed worker."""

    def first(self) -> Description:
        """Start one worker, wait for it, and return its description."""
        while self._first is None:
            self.tend(1)
            if self._starting:
                wait(self._starting, timeout=1.0)
            elif self._first is None:  # no worker fits yet
                time.sleep(1.0)
        return self._first

    def require(self, check: Callable[[Description], None]) -> None:
        """Set a check for workers that start from now on: if it raises, the worker is not added."""
        self._check = check

    def tend(self, most: int) -> None:
        """Add workers that are ready, and start as many as there are resources for, at most `most` in total.

        Raises what the first worker raises, and ShardError if workers repeatedly fail to start and none is running.
        """
        for future in list(self._starting):
            if future.done() or self._hangs(future):
                self._alive_since.pop(future, None)
                self._take_in(future, *self._starting.pop(future))
        target = min(self._wanted(), most)
        for _ in range(target - len(self.ready) - len(self._starting) if self._may_start() else 0):
            worker = self._start_handle()
            self._starting[worker.start()] = worker, self._failed_starts
        while self._starting and len(self.ready) + len(self._starting) > max(target, 1):  # a node left
            future, (worker, _) = self._starting.popitem()
            self._alive_since.pop(future, None)
            worker.close()
        self._say_if_waiting()

    def _hangs(self, future: Future[Description]) -> bool:
        """Return whether a worker has been starting for too long."""
        if not self._starting[future][0].pulse().beats:
            return False
        return time.monotonic() - self._alive_since.setdefault(future, time.monotonic()) > START_SECONDS

    def _may_start(self) -> bool:
        failing = self._failed_starts >= FAILED_STARTS
        return not failing or time.monotonic() - self._failed_at >= SECONDS_BETWEEN_STARTS

    def _take_in(self, future: Future[Description], worker: Handle, failed_before: int) -> None:
        try:
            if not future.done():
                raise WorkerLostError(f"it was not ready after {START_SECONDS:.0f} s")
            description = future.result()
            self._check(description)
        except Exception as error:  # a worker in another process may raise any error
            if self._first is None and not isinstance(error, WorkerLostError):
                raise  # probably invalid settings; later failures are specific to a node
            worker.close()
            if failed_before == self._failed_starts:  # counts workers that die together, as on a lost node, once
                self._failed_starts += 1
                self._failed_at = time.monotonic()
            if self._failed_starts >= FAILED_STARTS and not self.ready:
                raise ShardError(
                    f"{FAILED_STARTS} workers failed to start ({error}); check that there is enough memory"
                ) from error
            logger.warning("a worker failed to start (%s); starting another", error)
            return
        self._failed_starts = 0
        self._first = self._first or description
        self.ready.append(worker)

    def lose(self, worker: Handle) -> None:
        """Remove a worker that is dead or stuck."""
        if worker in self.ready:
            self.ready.remove(worker)
            worker.close()
            self.stuck = self.stuck or worker.stuck

    def close(self) -> None:
        """End all workers; all of them are asked before the first one is waited for."""
        workers = [*self.ready, *(worker for worker, _ in self._starting.values())]
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.close()
            self.stuck = self.stuck or worker.stuck

    def _say_if_waiting(self) -> None:
        if self.ready:
            self._empty_since, self._said = time.monotonic(), False
        elif not self._said and time.monotonic() - self._empty_since > SECONDS_BEFORE_WAITING_IS_SAID:
            self._said = True
            logger.warning("no worker is ready yet: %s", self._why_none_is_ready())

    def _why_none_is_ready(self) -> str:
        if not self._starting:
            return "no node has enough free CPUs and GPUs; add nodes, or wait until other jobs end"
        if any(worker.pulse().beats for worker, _ in self._starting.values()):
            return "the first one is still starting (it reads or downloads its weights, or opens its inputs)"
        return self._no_process
