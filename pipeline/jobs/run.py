"""Run a job, from its settings to a complete data set.

The driver plans, assigns shards, counts and completes the data set. It reads no sample and holds no features.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack, nullcontext
from threading import Event

from vilbert.pipeline.errors import READ_ONLY, RefusedError, ShardError
from vilbert.pipeline.jobs.done import DoneShards, find_done
from vilbert.pipeline.jobs.job import Job
from vilbert.pipeline.jobs.journals import Journals
from vilbert.pipeline.jobs.plan import (
    begin_dataset,
    finish_dataset,
    is_complete,
    make_folder,
    reopen_dataset,
    require_dataset,
    require_same,
)
from vilbert.pipeline.jobs.retries import Retries, begin_retries, give_up_retries
from vilbert.pipeline.jobs.run_log import log_folder, run_log
from vilbert.pipeline.jobs.schedule import Schedule
from vilbert.pipeline.jobs.shared import forget_tasks, write_shared
from vilbert.pipeline.jobs.watch import Renewal, Watch, starting
from vilbert.pipeline.jobs.workers import disk_errors, hurrying, planning
from vilbert.pipeline.shards.dataset import DatasetInfo, read_info
from vilbert.pipeline.shards.index.names import INDEX_FILE
from vilbert.pipeline.shards.location.folder import Folder, open_folder
from vilbert.pipeline.shards.location.layout import SHARDS_FOLDER
from vilbert.pipeline.shards.location.retry import hurry, patience
from vilbert.pipeline.signals import leave_now, terminate_like_interrupt
from vilbert.pipeline.terminal import counted

logger = logging.getLogger(__name__)


def run_job(job: Job) -> int:
    """Write the missing shards; return the job's exit status, or 130 if it was interrupted.

    If a thread hangs in native code, this function does not return but ends the process with that status.
    """
    hung = Event()
    try:
        with terminate_like_interrupt(), patience():
            status = write_dataset(job, hung)
    except (Exception, KeyboardInterrupt) as error:
        if not hung.is_set():
            raise
        logger.error("%s", error)
        status = 1
    if hung.is_set():
        leave_now(status)
    return status


def write_dataset(job: Job, hung: Event) -> int:
    """Do what `run_job` does; set `hung` if a thread remains that cannot be ended."""
    folder = open_folder(job.settings.output)
    if job.settings.shared:
        return write_with_others(job, folder, hung)
    if job.retry_failed is not None:
        require_dataset(folder)
    with ExitStack() as stack:
        try:
            with disk_errors(folder):
                make_folder(folder)
                try:
                    stack.enter_context(folder.exclusive_writer())
                except OSError as error:
                    if error.errno not in READ_ONLY or job.retry_failed is not None or not is_complete(folder):
                        raise
                    return job.summarise(require_nothing_to_do(job, folder, hung))
            stack.callback(sweep, folder)  # removes files of killed workers
            with disk_errors(folder):
                forget_tasks(folder)
            begins = job.retry_failed is not None or not is_complete(folder)
            with starting(folder) if begins else nullcontext() as start:
                info = write_pending_shards(job, folder, hung, start)
        except KeyboardInterrupt:
            return interrupted(folder)
    return job.summarise(info)


def write_with_others(job: Job, folder: Folder, hung: Event) -> int:
    """Write the data set together with other processes that run the same command."""
    try:
        with disk_errors(folder):
            make_folder(folder)
        info = write_shared(job, folder, hung)
    except KeyboardInterrupt:
        return interrupted(folder)
    return job.summarise(info)


def interrupted(folder: Folder) -> int:
    """Print how to resume, stop waiting for unreachable stores, and return the exit status."""
    hurry()
    logger.warning("interrupted: %s complete; run the same command again to resume", what_is_done(folder))
    return 130


def write_pending_shards(job: Job, folder: Folder, hung: Event, start: Renewal | None) -> DatasetInfo:
    """Start workers, check that they match the data set, write the missing shards, and complete the data set.

    start: renews the run's state until its `Watch` does; None if there is most likely nothing to do.
    """
    settings = job.settings
    with ExitStack() as stack, hurrying():
        crew, planned = stack.enter_context(planning(job, folder, hung))
        journals = Journals(folder)
        with disk_errors(folder):
            begin_dataset(folder, planned, journals)
            done = find_done(folder, planned, sweep=True)
        stack.callback(done.save)
        retries = choose_retries(job, folder, planned, done, journals)
        stack.callback(retries.save)
        rows = {shard: planned.shard_rows(shard) for shard in done.pending()}
        if not rows:
            logger.info("nothing to do: %s has all its shards", settings.output)
        if rows:
            folder.delete(INDEX_FILE)  # side files describe the old shards; see `write_side_files`
        if rows or start is not None:
            schedule = Schedule(
                crew,
                rows,
                journals=journals,
                retry=frozenset(retries.left),
                stall_seconds=settings.stall_seconds,
            )
            log = stack.enter_context(run_log(log_folder(settings.output)))
            if start is not None:
                start.end()
            watch = stack.enter_context(
                Watch(
                    folder,
                    planned,
                    done,
                    command=job.command,
                    log=log,
                    metrics=settings.dashboard or settings.ray_address is not None,
                    price_per_hour=settings.price_per_hour,
                )
            )
            for made in schedule.run():
                if made is not None:
                    done.note(made.record)
                    retries.note(made.record)
                    watch.note(made)
                watch.tick(crew.ready, schedule.lost)
            stack.enter_context(watch.finishing())
        journals.remove_all()
        with disk_errors(folder):  # inside the watch: the run is finished once dataset.json is complete
            info = finish_dataset(folder, written=len(rows))
        job.finished(folder)
        return info


def require_nothing_to_do(job: Job, folder: Folder, hung: Event) -> DatasetInfo:
    """Return the dataset.json of a complete data set that is read-only.

    Raises FingerprintError if it has other settings, RefusedError if shards are missing.
    """
    with hurrying(), planning(job, folder, hung) as (_, planned):
        info = read_info(folder)
        require_same(info, planned, folder.name)
        if missing := find_done(folder, planned).pending():
            shards = counted(len(missing), "shard is", "shards are")
            raise RefusedError(f"{folder.name}: is read-only and {shards} missing or damaged; make it writable")
    logger.info("nothing to do: %s has all its shards", job.settings.output)
    return info


def choose_retries(job: Job, folder: Folder, planned: DatasetInfo, done: DoneShards, journals: Journals) -> Retries:
    """Return the shards to make again because of their failed rows, and mark them as unfinished."""
    if job.retry_failed is None:
        return give_up_retries(folder, done, planned.shards)
    retries, begins = begin_retries(folder, done, planned.shards, job.retry_failed)
    if begins:
        for shard in journals.shards().intersection(retries.left):
            journals.remove(shard)  # its findings predate the retry
    if retries.left:
        with disk_errors(folder):
            reopen_dataset(folder)
    retries.save()
    done.forget(retries.left)
    logger.info("shards with failed rows to try again: %d", len(retries.left))
    return retries


def what_is_done(folder: Folder) -> str:
    """Return the number of finished shards as text."""
    try:
        done = sum(name.endswith(".json") for name, _ in folder.entries(SHARDS_FOLDER))
    except (OSError, ShardError):  # an unreachable store, perhaps the reason for the interrupt
        return "the finished shards are"
    return "1 shard is" if done == 1 else f"{done} shards are"


def sweep(folder: Folder) -> None:
    """Delete unfinished files of killed workers; files that cannot be deleted are left to the next run."""
    try:
        folder.sweep()
    except OSError as error:
        logger.warning("%s: unfinished files cannot be deleted: %s", folder.name, error)
