"""Apply a function to many shards, in parallel processes if it is worthwhile, with progress on a terminal."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import TypeVar

from tqdm import tqdm

from vilbert.pipeline.errors import ShardError

Result = TypeVar("Result")

SMALL_BYTES = 64 << 20
"""Data sets up to this size are read faster than processes start."""


def worker_count(asked: int, total_bytes: int) -> int:
    """Return the number of processes for `total_bytes`: `asked`, or if it is 0 one per core, or 1 for few bytes."""
    return asked or (1 if total_bytes <= SMALL_BYTES else cores())


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map_shards(
    function: Callable[[int], Result], shards: Sequence[int], *, workers: int, label: str
) -> Iterator[Result]:
    """Yield the results of `function` for all shards in completion order; with 1 worker in this process, in order.

    `function` and its results must be picklable. Its exceptions are propagated.

    Raises:
        ShardError: A process died.
    """
    workers = min(workers, len(shards))
    with tqdm(total=len(shards), desc=label, unit="shard", disable=None, file=sys.stderr) as bar:
        if workers <= 1:
            for shard in shards:
                yield function(shard)
                bar.update()
            return
        try:
            with processes(workers) as pool:
                for future in as_completed([pool.submit(function, shard) for shard in shards]):
                    yield future.result()
                    bar.update()
        except BrokenProcessPool:
            raise ShardError(f"{label}: a process died, possibly out of memory; try --num-workers 1") from None


@contextmanager
def processes(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Provide a process pool whose processes end with the block, or whenever this process ends."""
    pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_follow_the_parent)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_the_parent() -> None:
    # Ctrl-C ends the parent, which stops its processes; otherwise each of them would print a traceback.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_parent, daemon=True).start()


def _end_with_the_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
