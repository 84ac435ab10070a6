"""Hand shards to workers until all are done, whatever becomes of a worker. Knows nothing of Ray."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Protocol

from pipeline.extract.worker import SHARDS_IN_FLIGHT, Description
from pipeline.shards.errors import ShardError
from pipeline.shards.record import ShardRecord

logger = logging.getLogger(__name__)

ATTEMPTS = 3
"""Tries of a shard whose worker died, before the run gives up on it."""


class WorkerLostError(Exception):
    """A worker's process is gone; its shards can be done by another."""


class Handle(Protocol):
    """A worker, here or in another process."""

    def start(self) -> Future[Description]:
        """Build the detector."""

    def extract_shard(self, shard: int, rows: tuple[int, int]) -> Future[ShardRecord]:
        """Write the shard of the manifest rows [start, stop).

        The future raises WorkerLostError where the worker's process died.
        """

    def rows_in_flight(self) -> int:
        """Return, at once, how many rows were last known to be done of the worker's unfinished shards."""

    def close(self) -> None:
        """End the worker; unfinished shards leave nothing that counts as done."""


def assign(workers: Sequence[Handle], busy: Sequence[Handle], waiting: deque[int]) -> Iterator[tuple[Handle, int]]:
    """Take shards from the waiting and yield who gets which: first one to each idle worker, then a second one to each.

    The last shards are not given out as second ones: a worker that becomes idle can start them sooner.
    """
    load = Counter(id(worker) for worker in busy)
    for depth in range(SHARDS_IN_FLIGHT):
        for worker in workers:
            if waiting and load[id(worker)] == depth and (depth == 0 or len(waiting) >= len(workers)):
                load[id(worker)] += 1
                yield worker, waiting.popleft()


def schedule(
    start_worker: Callable[[], Handle],
    workers: list[Handle],
    shards: Mapping[int, tuple[int, int]],
    seconds_between_ticks: float = 1.0,
) -> Iterator[ShardRecord | None]:
    """Yield the record of each shard as it gets done, and None now and then so that the caller can report progress.

    shards: the manifest rows [start, stop) of each.
    workers: started ones, to begin with; a lost one is replaced in this list by `start_worker()`.
    Raises what a worker raises, and ShardError where a shard outlives no worker in ATTEMPTS tries.
    """
    waiting = deque(shards)
    attempts: Counter[int] = Counter()
    in_flight: dict[Future[ShardRecord], tuple[Handle, int]] = {}
    while waiting or in_flight:
        for worker, shard in assign(workers, [holder for holder, _ in in_flight.values()], waiting):
            in_flight[worker.extract_shard(shard, shards[shard])] = worker, shard
        done, _ = wait(in_flight, timeout=seconds_between_ticks, return_when=FIRST_COMPLETED)
        if not done:
            yield None
        for future in done:
            worker, shard = in_flight.pop(future)
            try:
                record = future.result()
            except WorkerLostError as error:
                attempts[shard] += 1
                if attempts[shard] >= ATTEMPTS:
                    raise ShardError(
                        f"shard {shard} ended {ATTEMPTS} workers ({error}); an image in it may kill the process. "
                        "The shards that are done stay; run again to retry"
                    ) from error
                logger.warning("shard %d: its worker is lost (%s); trying again", shard, error)
                waiting.appendleft(shard)
                if worker in workers:
                    worker.close()
                    workers[workers.index(worker)] = start_worker()
            else:
                yield record
