"""`--shared`: several processes, such as the tasks of a Slurm array, write one data set; Ray is not needed.

Each process runs the same command. Running tasks hold the folder's lock as a shared lock, which keeps other commands
out, and claim shards one by one (`claims.py`). Work that a single task must do is done under the exclusive lock: the
first task starts the data set and deletes leftovers of killed tasks; when all shards are finished, the first task that
gets the lock completes the data set. A killed task loses its claims and its lock; the others make its shards. If all
tasks are killed, a restarted one resumes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from functools import partial
from threading import Event

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.jobs.claims import CLAIMS_FILE, Claims, reset_claims
from vilbert.pipeline.jobs.crew import Crew
from vilbert.pipeline.jobs.done import DoneShards, find_done
from vilbert.pipeline.jobs.job import Job
from vilbert.pipeline.jobs.journals import Journals
from vilbert.pipeline.jobs.plan import begin_dataset, finish_dataset, is_complete, reopen_dataset, require_same
from vilbert.pipeline.jobs.run_log import log_folder, run_log
from vilbert.pipeline.jobs.schedule import Schedule
from vilbert.pipeline.jobs.task_states import merge_tasks, read_tasks, remove_tasks, task_file
from vilbert.pipeline.jobs.watch import Watch, save, starting
from vilbert.pipeline.jobs.workers import disk_errors, hurrying, planning
from vilbert.pipeline.shards.dataset import DatasetInfo, read_info
from vilbert.pipeline.shards.index.names import INDEX_FILE
from vilbert.pipeline.shards.location.folder import Folder, LocalFolder
from vilbert.pipeline.shards.location.lock import FolderLock, open_lock
from vilbert.pipeline.shards.location.process import this_process

logger = logging.getLogger(__name__)

SIGNATURE = "a task with --shared,"
"""Prefix of the text that tasks write into the lock file."""
SECONDS_BETWEEN_TRIES = 0.3
"""Seconds between attempts to take the lock while another task holds it."""
SECONDS_TO_SIGN = 2.0
"""Seconds after which a lock whose holder has not registered as a task belongs to a command without --shared."""


def write_shared(job: Job, folder: Folder, hung: Event) -> DatasetInfo:
    """Write shards together with other tasks until all are done; return the complete data set."""
    if not isinstance(folder, LocalFolder):
        raise RefusedError(
            f"--shared: {folder.name} is a URL, where shards cannot be locked; write to a folder of a shared file "
            "system, or use Ray"
        )
    with ExitStack() as stack, hurrying():
        with disk_errors(folder):
            lock = stack.enter_context(open_lock(folder.path))
            alone = join(lock)
            if alone:
                forget_tasks(folder)
            state_file = task_file(folder)
        stack.push(partial(forget_refused, folder, state_file))
        start = stack.enter_context(starting(folder, state_file))
        claimed = stack.enter_context(ExitStack())  # before the crew: claims last until the workers have ended
        crew, planned = stack.enter_context(planning(job, folder, hung))
        while True:
            if alone:
                done = begin(folder, planned)
                share(lock)
            else:
                done = join_dataset(folder, planned)
            start.end()
            with disk_errors(folder):
                claims = claimed.enter_context(Claims(folder.path))
            make_shards(job, folder, planned, done, crew, claims, state_file)
            claimed.close()  # once the lock is released, another command may delete the file
            wait_alone(lock)
            alone = True
            if (info := complete(job, folder, planned)) is not None:
                return info


def join(lock: FolderLock) -> bool:
    """Take the lock exclusively if no other task is running, else shared; return whether it is exclusive.

    Raises:
        LockedError: A command without --shared is writing here.
    """
    seen = time.monotonic()
    while True:
        if lock.take():
            sign(lock)
            return True
        if lock.take(shared=True):
            return False
        seen = wait_for_task(lock, seen)


def wait_for_task(lock: FolderLock, seen: float) -> float:
    """Wait briefly for the task with the exclusive lock; return the time when a task was last known to hold it.

    A task writes its name just after it takes the lock, so for a moment the name may be that of an earlier holder.

    Args:
        lock: The lock, which this process does not hold.
        seen: Time (monotonic clock) when a task was last known to hold the lock, or of the first attempt.

    Raises:
        LockedError: A command without --shared holds the lock.
    """
    now = time.monotonic()
    if lock.holder().startswith(SIGNATURE):
        seen = now
    elif now - seen > SECONDS_TO_SIGN:
        lock.refuse()
    time.sleep(SECONDS_BETWEEN_TRIES)
    return seen


def forget_tasks(folder: Folder) -> None:
    """Delete claims and states of killed tasks; call it only while no task is running."""
    if isinstance(folder, LocalFolder):
        remove_tasks(folder)
        folder.delete(CLAIMS_FILE)


def forget_refused(folder: LocalFolder, state_file: str, kind: object, error: object, trace: object) -> None:
    """Delete the state of this task if its command was refused, because it is not a task of this data set."""
    if isinstance(error, RefusedError):
        with suppress(OSError):
            folder.delete(state_file)
            (folder.path / state_file).parent.rmdir()


def share(lock: FolderLock) -> None:
    """Change the lock to a shared one, so that other tasks can start."""
    sign(lock)
    seen = time.monotonic()
    while not lock.take(shared=True):  # another task, or a command without --shared, came first
        seen = wait_for_task(lock, seen)


def wait_alone(lock: FolderLock) -> None:
    """Take the exclusive lock when the other tasks have released theirs."""
    lock.release()
    while not lock.take():
        time.sleep(SECONDS_BETWEEN_TRIES)
    sign(lock)


def sign(lock: FolderLock) -> None:
    """Write into the lock file that tasks hold it."""
    lock.sign(f"{SIGNATURE} {this_process()['holder']}")


def begin(folder: LocalFolder, planned: DatasetInfo) -> DoneShards:
    """Start or resume the data set while no other task is running; return which shards are finished."""
    with disk_errors(folder):
        folder.sweep()
        begin_dataset(folder, planned, Journals(folder))
        done = find_done(folder, planned, sweep=True)
        if done.pending():
            reopen_dataset(folder)
            folder.delete(INDEX_FILE)  # side files describe the old shards; see `write_side_files`
        reset_claims(folder.path, planned.shards)
    return done


def join_dataset(folder: LocalFolder, planned: DatasetInfo) -> DoneShards:
    """Return which shards of the data set of other tasks are finished."""
    with disk_errors(folder):
        require_same(read_info(folder), planned, folder.name)
        return find_done(folder, planned)


def make_shards(
    job: Job,
    folder: LocalFolder,
    planned: DatasetInfo,
    done: DoneShards,
    crew: Crew,
    claims: Claims,
    state_file: str,
) -> None:
    """Make the shards that no other task makes; return when all shards are finished."""
    settings = job.settings
    rows: Mapping[int, tuple[int, int]] = {shard: planned.shard_rows(shard) for shard in done.pending()}
    schedule = Schedule(crew, rows, journals=Journals(folder), stall_seconds=settings.stall_seconds, claims=claims)
    with ExitStack() as stack:
        watch = stack.enter_context(
            Watch(
                folder,
                planned,
                done,
                command=job.command,
                log=stack.enter_context(run_log(log_folder(settings.output))),
                metrics=settings.dashboard or settings.ray_address is not None,
                price_per_hour=settings.price_per_hour,
                state_file=state_file,
            )
        )
        for made in schedule.run():
            if made is not None:
                watch.note(made)
            watch.note_elsewhere([rows[shard] for shard in schedule.take_done_elsewhere()])
            watch.tick(crew.ready, schedule.lost)


def complete(job: Job, folder: LocalFolder, planned: DatasetInfo) -> DatasetInfo | None:
    """Complete the data set, unless another task has done so; None if a shard is missing.

    No other task is running. If this task is killed, the next one repeats every step.
    """
    with disk_errors(folder):
        if is_complete(folder):
            info = read_info(folder)
        else:
            done = find_done(folder, planned, sweep=True)
            if done.pending():
                return None
            folder.sweep()
            Journals(folder).remove_all()
            done.save()
            info = finish_dataset(folder, written=planned.shards)
        job.finished(folder)
        if tasks := read_tasks(folder):
            save(folder, merge_tasks(folder, tasks, lambda state: False))
        forget_tasks(folder)
    return info
