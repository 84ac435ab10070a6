"""One function over many shards, in processes of their own where it is worth it, with progress on a terminal."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from tqdm import tqdm

from pipeline.shards.errors import ShardError

Result = TypeVar("Result")

SMALL_BYTES = 64 << 20
"""A data set up to this size is read sooner than processes start."""


def worker_count(asked: int, total_bytes: int) -> int:
    """Return how many processes read `total_bytes`: those asked for; for 0 one a core, or 1 for few bytes."""
    if asked:
        return asked
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 1 if total_bytes <= SMALL_BYTES else cores


def map_shards(
    function: Callable[[int], Result], shards: Sequence[int], *, workers: int, label: str
) -> Iterator[Result]:
    """Yield `function` of each shard as it gets ready, in any order; with 1 worker in this process, and in order.

    `function` and its results must be picklable. Raises what it raises, and ShardError where a process dies.
    """
    workers = min(workers, len(shards))
    with tqdm(total=len(shards), desc=label, unit="shard", disable=None, file=sys.stderr) as bar:
        if workers <= 1:
            for shard in shards:
                yield function(shard)
                bar.update()
            return
        pool = ProcessPoolExecutor(workers, get_context("spawn"), initializer=_leave_interrupts_to_the_parent)
        try:
            for future in as_completed([pool.submit(function, shard) for shard in shards]):
                yield future.result()
                bar.update()
        except BrokenProcessPool:
            raise ShardError(f"{label}: a process died, of want of memory perhaps; try --num-workers 1") from None
        finally:
            pool.shutdown(cancel_futures=True)


def _leave_interrupts_to_the_parent() -> None:
    """Let Ctrl-C end the parent, which then stops its processes; they would each print a traceback."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
