"""`--profile STEPS`: where the time of a training step goes, as a trace and as a table."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

from vilbert.pipeline.shards.storage.atomic import write_atomic
from vilbert.pipeline.train.run.disk import explain_disk_errors

logger = logging.getLogger(__name__)

PROFILE_FOLDER = "profile"
SKIPPED_STEPS, WARM_UP_STEPS = 2, 1
"""Before the profiled ones: first calls allocate memory and choose kernels, and the profiler itself needs a step."""
ROWS = 10


@contextmanager
def profiled(run: Path, steps: int, *, rank: int) -> Iterator[Callable[[], object]]:
    """Profile some steps of the block, whose value is to be called behind each step.

    Writes RUN/profile/trace-RANK.json, for chrome://tracing or ui.perfetto.dev, and RUN/profile/table-RANK.txt, the ten
    operations with the most time of their own.

    Args:
        run: Folder of the run.
        steps: Number of steps to profile, after the first three; 0 for none.
        rank: Number of this process.
    """
    if not steps:
        yield lambda: None
        return
    folder = run / PROFILE_FOLDER

    def write(profiler: profile) -> None:
        with explain_disk_errors(folder):
            folder.mkdir(exist_ok=True)
            trace = folder / f"trace-{rank}.json"
            profiler.export_chrome_trace(str(trace))
            table = profiler.key_averages().table(sort_by=_sorted_by(), row_limit=ROWS)
            write_atomic(folder / f"table-{rank}.txt", table.encode())
        logger.info("profile of %d steps: %s, and %s for chrome://tracing", steps, folder / f"table-{rank}.txt", trace)

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if torch.cuda.is_available() else [])]
    plan = schedule(skip_first=SKIPPED_STEPS, wait=0, warmup=WARM_UP_STEPS, active=steps, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write) as profiler:
        yield profiler.step


def _sorted_by() -> str:
    return "self_cuda_time_total" if torch.cuda.is_available() else "self_cpu_time_total"
