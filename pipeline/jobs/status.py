"""`vilbert status`: show the progress of a job, from any shell or machine."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from datetime import timedelta

from tyro.conf import Positional

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.jobs.plan import has_dataset
from vilbert.pipeline.jobs.run_state import RunState, read_state
from vilbert.pipeline.jobs.task_states import merge_tasks, read_tasks
from vilbert.pipeline.shards.location.folder import Folder, open_folder, what_is_there
from vilbert.pipeline.shards.location.layout import DATASET_FILE, SHARDS_FOLDER, record_numbers
from vilbert.pipeline.shards.location.place_option import PlaceOption
from vilbert.pipeline.shards.location.process import is_dead
from vilbert.pipeline.terminal import counted, print_lines
from vilbert.settings import validated

SILENT_SECONDS = 60.0
"""Seconds without a new `.run.json` after which a run is considered dead or disconnected."""


@validated
class StatusSettings:
    """Show the progress of a running `vilbert extract` or `vilbert convert`, or how the last run ended.

    With --shared the state of each task is shown too.

    Exit status 0 if a run is in progress or has finished, 1 if it failed, was interrupted, killed or stopped
    responding.
    """

    directory: Positional[PlaceOption]
    """The data set's folder, or its URL."""
    json: bool = False
    """Print one JSON object instead of text."""


def status(settings: StatusSettings) -> int:
    """Print the state of the last run and return the exit status; raise RefusedError if there is no data set."""
    folder = open_folder(settings.directory)
    if has_dataset(folder) and (tasks := read_tasks(folder)):
        return status_of_tasks(folder, tasks, settings)
    state = read_state(folder)
    if state is None:
        return without_state(folder, settings)
    condition, fine = judge(state, time.time())
    if settings.json:
        print(json.dumps({**state.to_json(), "condition": condition}, indent=1, sort_keys=True))
    else:
        told = [*progress(state), *summary(state)] if state.shards else []  # no counts before workers are ready
        print_lines([f"{folder.name}: {condition}", *told])
    return int(not fine)


def status_of_tasks(folder: Folder, tasks: Sequence[RunState], settings: StatusSettings) -> int:
    """Print the states of the tasks that write a data set together, and return the exit status."""
    now = time.time()
    conditions = [judge(task, now) for task in tasks]
    merged = merge_tasks(folder, tasks, lambda task: task.state in ("starting", "running") and judge(task, now)[1])
    at_work = merged.state == "running"
    if at_work:
        at_work_now = sum(
            task.state in ("starting", "running") and fine for task, (_, fine) in zip(tasks, conditions, strict=True)
        )
        condition = f"running, {counted(at_work_now, 'task')} active"
    elif merged.shards_done == merged.shards:
        condition = "all shards are done; the last task, or the same command again, completes the data set"
    else:
        condition = "no task is running; run the same command again to resume"
    if settings.json:
        told = [{**task.to_json(), "condition": said} for task, (said, _) in zip(tasks, conditions, strict=True)]
        document = {**merged.to_json(), "condition": condition, "tasks": told}
        print(json.dumps(document, indent=1, sort_keys=True))
    else:
        lines = [
            f"  task       {task.holder.get('holder', 'a process')}: {said}"
            for task, (said, _) in zip(tasks, conditions, strict=True)
        ]
        print_lines([f"{folder.name}: {condition}", *progress(merged), *summary(merged), *lines])
    return int(not at_work)


def without_state(folder: Folder, settings: StatusSettings) -> int:
    """Print the number of finished shards if no state of a run exists."""
    if DATASET_FILE not in {name for name, _ in folder.entries("")}:
        raise RefusedError(f"{folder.name}: {what_is_there(folder)}; or a new run is still starting")
    done = len(record_numbers(name for name, _ in folder.entries(SHARDS_FOLDER)))
    if settings.json:
        print(json.dumps({"condition": "unknown", "shards_done": done}))
    else:
        print_lines([f"{folder.name}: {counted(done, 'finished shard')}; no run is recorded (no .run.json)"])
    return 0


def judge(state: RunState, now: float) -> tuple[str, bool]:
    """Return the state of the run as text, and whether it is good. now: Unix time.

    A wrong clock can only make a running run look as if it did not update its state.
    """
    lasted = timedelta(seconds=round(state.seconds))
    if state.state == "finished":
        return f"finished in {lasted}", True
    if state.state == "interrupted":
        return f"interrupted after {lasted}; run the same command again to resume", False
    if state.state == "failed":
        return f"failed after {lasted}: {state.message}", False
    who = state.holder.get("holder", "a process")
    if is_dead(state.holder):
        return f"killed after {lasted} ({who} has ended); the same command resumes it", False
    silent = now - state.updated
    if silent > SILENT_SECONDS:
        ago = timedelta(seconds=round(silent))
        return f"no update for {ago}: {who} was killed, hangs, or cannot write; the same command resumes it", False
    if state.state == "starting":
        return f"starting as {who}: no worker is ready yet", True
    return f"running for {lasted} as {who}", True


def progress(state: RunState) -> Iterator[str]:
    """Yield the lines about progress."""
    done = state.rows_done + state.rows_in_work
    left = ""
    if state.state == "running" and state.images_per_second:
        left = f", about {timedelta(seconds=round((state.rows - done) / state.images_per_second))} remaining"
    yield f"  rows       {done:,} of {state.rows:,} ({done / max(state.rows, 1):.1%}){left}"
    yield f"  shards     {state.shards_done:,} of {state.shards:,}"
    if state.state == "running":
        yield f"  workers    {state.workers}"
    if state.log is not None:
        yield f"  log        {state.log}"


def summary(state: RunState) -> Iterator[str]:
    """Yield the lines that summarise the run."""
    rate, waited = state.images_per_second, state.detector_waited
    yield f"  images     {state.rows_done - state.rows_before:,}, {'-' if rate is None else f'{rate:,.1f}'} per second"
    if waited is not None:
        yield f"  detector   waited {waited:.1%} of the workers' time"
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in state.failures.items())
    yield f"  failures   {sum(state.failures.values()):,}{f': {reasons}' if reasons else ''}"
    yield f"  written    {state.bytes / 1e6:,.1f} MB"
    if state.workers_lost:
        yield f"  lost       {counted(state.workers_lost, 'worker')}"
    if state.worker_hours_per_million is not None:
        price = "" if state.cost_per_million is None else f", price {state.cost_per_million:,.2f}"
        yield f"  1 million  {state.worker_hours_per_million:,.1f} worker hours{price}"
