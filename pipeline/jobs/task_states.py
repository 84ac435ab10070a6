"""States of the tasks that write one data set together (`--shared`), for `vilbert status`.

    DIR/.tasks/HOST-PROCESS.json     the state of one task, like .run.json

When the data set is complete they are merged into .run.json and deleted.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress

from vilbert.pipeline.jobs.run_state import RunState, read_state
from vilbert.pipeline.shards.dataset import read_info
from vilbert.pipeline.shards.location.folder import Folder, LocalFolder
from vilbert.pipeline.shards.location.layout import SHARDS_FOLDER, record_numbers
from vilbert.pipeline.shards.location.process import this_process

TASKS_FOLDER = ".tasks"


def task_file(folder: LocalFolder) -> str:
    """Return the file name of this task's state and create its folder."""
    (folder.path / TASKS_FOLDER).mkdir(exist_ok=True)
    _, process, _, host = this_process()["holder"].split(" ", 3)
    return f"{TASKS_FOLDER}/{re.sub(r'[^A-Za-z0-9.-]', '_', host)}-{process}.json"


def read_tasks(folder: Folder) -> list[RunState]:
    """Return the states of the tasks in order of their start."""
    names = [name for name, size in folder.entries(TASKS_FOLDER) if size is not None and name.endswith(".json")]
    states = (read_state(folder, f"{TASKS_FOLDER}/{name}") for name in names)
    return sorted((state for state in states if state is not None), key=lambda state: state.begun)


def remove_tasks(folder: LocalFolder) -> None:
    """Delete the states; call it only while no other task is running."""
    for name, _ in list(folder.entries(TASKS_FOLDER)):
        folder.delete(f"{TASKS_FOLDER}/{name}")
    with suppress(OSError):
        (folder.path / TASKS_FOLDER).rmdir()


def merge_tasks(folder: Folder, states: Sequence[RunState], is_alive: Callable[[RunState], bool]) -> RunState:
    """Return the combined state of all tasks; finished rows are counted from the records of the shards.

    Args:
        folder: The output folder.
        states: At least one.
        is_alive: Returns whether a task is running.
    """
    info = read_info(folder)
    done = [shard for shard in record_numbers(name for name, _ in folder.entries(SHARDS_FOLDER)) if shard < info.shards]
    rows_done = sum(stop - start for start, stop in map(info.shard_rows, done))
    failures: Counter[str] = Counter()
    for state in states:
        failures.update(state.failures)
    alive = [state for state in states if is_alive(state)]
    begun, updated = min(state.begun for state in states), max(state.updated for state in states)
    first = states[0]
    return RunState(
        state="running" if alive else "finished" if info.complete else "failed",
        message="" if alive or info.complete else "no task is running",
        software=first.software,
        holder=(alive or states)[0].holder,
        log=first.log,
        begun=begun,
        updated=updated,
        seconds=max(0.0, updated - begun),
        rows=info.rows,
        rows_before=max(0, rows_done - sum(state.rows_done - state.rows_before for state in states)),
        rows_done=rows_done,
        rows_in_work=min(sum(state.rows_in_work for state in alive), info.rows - rows_done),
        shards=info.shards,
        shards_done=len(done),
        samples=sum(state.samples for state in states),
        failures=dict(sorted(failures.items())),
        failures_before=min(state.failures_before for state in states),
        bytes=sum(state.bytes for state in states),
        workers=sum(state.workers for state in alive),
        workers_lost=sum(state.workers_lost for state in states),
        worker_seconds=sum(state.worker_seconds for state in states),
        detector_seconds=sum(state.detector_seconds for state in states),
        price_per_hour=first.price_per_hour,
    )
