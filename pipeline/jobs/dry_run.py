"""`--dry-run` of a job: estimate the number of shards, disk space and time. Nothing is written.

Disk space is estimated from the finished shards and time from the state of the last run, if there is one; otherwise
both from a sample of the rows, which one worker in this process makes.
"""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta

from vilbert.pipeline.jobs.done import DoneShards, find_done
from vilbert.pipeline.jobs.job import Job
from vilbert.pipeline.jobs.measure import Measure
from vilbert.pipeline.jobs.plan import has_dataset, refuse_strangers, require_same
from vilbert.pipeline.jobs.retries import begin_retries
from vilbert.pipeline.jobs.run_state import read_state
from vilbert.pipeline.shards.dataset import DatasetInfo, Tally, read_info
from vilbert.pipeline.shards.location.folder import Folder, open_folder
from vilbert.pipeline.shards.record import read_each_record
from vilbert.pipeline.terminal import counted, print_lines

RECORDS_LOOKED_AT = 1000


def dry_run(job: Job) -> int:
    """Print what a run would do and return 0. Raises what a run would raise for settings that differ."""
    folder = open_folder(job.settings.output)
    refuse_strangers(folder)
    with ExitStack() as stack:
        stack.enter_context(job.prepare(folder, dry=True))
        worker = job.worker_here()
        stack.callback(worker.stop)
        planned = job.plan(worker.start())
        pending, again = list(range(planned.shards)), 0
        if has_dataset(folder):
            existing = read_info(folder)
            existing, planned = job.like(existing, planned)
            require_same(existing, planned, folder.name)
            done = find_done(folder, planned)
            pending = done.pending()
            again = rows_to_try_again(job, folder, planned, done)
        rows = sum(stop - start for start, stop in map(planned.shard_rows, pending))
        finished = sorted(set(range(planned.shards)) - set(pending))
        measure = measure_finished(folder, finished) or job.measure(worker, planned, pending)
    print_lines(report(folder.name, planned, len(finished), rows, again, measure))
    return 0


def rows_to_try_again(job: Job, folder: Folder, planned: DatasetInfo, done: DoneShards) -> int:
    """Return how many failed rows of finished shards `--retry-failed` would try again."""
    if job.retry_failed is None:
        return 0
    retries, _ = begin_retries(folder, done, planned.shards, job.retry_failed)
    records = read_each_record(folder, sorted(retries.left - set(done.pending())))
    chosen = job.retry_failed
    return sum(n for record in records for reason, n in record.failures.items() if not chosen or reason in chosen)


def report(name: str, planned: DatasetInfo, finished: int, rows: int, again: int, measure: Measure) -> list[str]:
    """Return the lines to print. rows: unfinished rows; again: failed rows to try again."""
    left = planned.shards - finished
    to_do, total = ((number * measure.share) for number in (rows + again, planned.rows))
    row = "row" if measure.share == 1 else "row that is kept"
    return [
        f"{name}: {counted(planned.shards, 'shard')} of {counted(planned.shard_size, 'row')}, "
        f"{counted(planned.rows, 'row')}",
        f"done already: {counted(finished, 'shard')}, {counted(planned.rows - rows, 'row')}",
        f"to do: {counted(left, 'shard')}, {counted(rows, 'row')}",
        *([f"to try again: {counted(again, 'failed row')}"] if again else []),
        *([f"rows that are kept: {round(total):,} of {planned.rows:,}"] if measure.share < 1 else []),
        f"disk: {size(to_do * measure.bytes_a_row)} more, {size(total * measure.bytes_a_row)} in all",
        f"time: {timedelta(seconds=round(to_do / measure.rows_a_second))}",
        f"by {measure.source}: {measure.bytes_a_row:,.0f} bytes a {row}, {measure.rows_a_second:,.1f} rows/s",
        "nothing was written",
    ]


def measure_finished(folder: Folder, finished: list[int]) -> Measure | None:
    """Return the cost of rows from the records of finished shards and the state of the last run.

    None without such a state, or if that run finished no shard.
    """
    last = read_state(folder)
    if not finished or last is None or not last.images_per_second:
        return None
    tally = Tally()
    for record in read_each_record(folder, finished[:RECORDS_LOOKED_AT]):
        tally.add(record)
    return Measure(
        bytes_a_row=tally.totals().bytes / tally.rows,
        rows_a_second=last.images_per_second,
        source=f"{counted(len(finished), 'finished shard')}, and the workers and speed of the last run",
    )


def size(number: float) -> str:
    """Return a number of bytes as text."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"
