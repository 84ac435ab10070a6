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
def profiled(run: Path, steps: int, *, rank: int, device: torch.device) -> Iterator[Callable[[], object]]:
    """Profile some steps of the block, whose value is to be called behind each step.

    Writes RUN/profile/trace-RANK.json, for chrome://tracing or ui.perfetto.dev, and RUN/profile/table-RANK.txt, the ten
    operations with the most time of their own.

    Args:
        run: Folder of the run.
        steps: Number of steps to profile, after the first three; 0 for none.
        rank: Number of this process.
        device: Of this process. On a GPU the table has the operations with the most time there.
    """
    if not steps:
        yield lambda: None
        return
    folder = run / PROFILE_FOLDER
    steps_done = 0

    def write(profiler: profile) -> None:
        if steps_done <= SKIPPED_STEPS + WARM_UP_STEPS:
            return
        with explain_disk_errors(folder):
            folder.mkdir(exist_ok=True)
            trace = folder / f"trace-{rank}.json"
            profiler.export_chrome_trace(str(trace))
            table = profiler.key_averages().table(sort_by=f"self_{device.type}_time_total", row_limit=ROWS)
            write_atomic(folder / f"table-{rank}.txt", table.encode())
        logger.info("profile of %d steps: %s, and %s for chrome://tracing", steps, folder / f"table-{rank}.txt", trace)

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    plan = schedule(skip_first=SKIPPED_STEPS, wait=0, warmup=WARM_UP_STEPS, active=steps, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write) as profiler:

        def end_step() -> None:
            nonlocal steps_done
            steps_done += 1
            profiler.step()

        yield end_step
    if steps_done <= SKIPPED_STEPS + WARM_UP_STEPS:
        logger.warning(
            "--profile %d: nothing was profiled: the first %d steps of a session are not profiled, and the session "
            "ended before",
            steps, SKIPPED_STEPS + WARM_UP_STEPS,
        )  # fmt: skip
