"""`vilbert extract --dry-run`: how many shards, how much disk, how much time. Nothing is written anywhere.

Disk is known from the part that is done and time from the account of the last run, where there is one; else both from
a sample of the manifest's rows, which one worker in this process extracts.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import timedelta

from vilbert.manifests.manifest import Manifest
from vilbert.pipeline.extract.planned_dataset import plan_dataset
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.extract.worker import Worker
from vilbert.pipeline.jobs.done import DoneShards, find_done, read_each_record
from vilbert.pipeline.jobs.plan import has_dataset, refuse_strangers, require_same
from vilbert.pipeline.jobs.retries import begin_retries
from vilbert.pipeline.jobs.run_state import read_state
from vilbert.pipeline.shards.dataset import DatasetInfo, Tally, read_info
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.location.folder import Folder, open_folder
from vilbert.pipeline.shards.location.layout import StorageFormat
from vilbert.pipeline.shards.sample import Sample, encode_members
from vilbert.pipeline.shards.storage.tensors import encode_tensors
from vilbert.pipeline.shards.storage.ustar import BLOCK, padding
from vilbert.pipeline.terminal import counted, print_lines

SAMPLE_ROWS = 32
"""Rows to measure, spread over the manifest."""
RECORDS_LOOKED_AT = 1000


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """What a row costs."""

    bytes_a_row: float
    """Of the files of samples; rows that fail count as rows."""
    rows_a_second: float
    source: str
    """Where that is from, for a person."""


def dry_run(settings: ExtractSettings) -> int:
    """Print what a run would do and return 0. Raises what a run would raise where settings are not the data set's."""
    manifest = Manifest.open(settings.manifest)
    folder = open_folder(settings.output)
    refuse_strangers(folder)
    worker = Worker(for_this_machine(settings))
    try:
        description = worker.start()
        planned = plan_dataset(settings, manifest, description)
        pending, again = list(range(planned.shards)), 0
        if has_dataset(folder):
            there = read_info(folder)
            if settings.backend == "ray":
                planned = with_device_of(there, planned)
            require_same(there, planned, folder.name)
            done = find_done(folder, planned)
            pending = done.pending()
            again = rows_to_try_again(settings, folder, planned, done)
        rows = sum(stop - start for start, stop in map(planned.shard_rows, pending))
        finished = sorted(set(range(planned.shards)) - set(pending))
        device = str(description.fingerprint["extractor"]["device"])
        measure = measure_finished(folder, finished) or measure_sample(worker, manifest, planned, device)
    finally:
        worker.stop()
    print_lines(report(folder.name, planned, len(finished), rows, again, measure))
    return 0


def for_this_machine(settings: ExtractSettings) -> ExtractSettings:
    """Return the settings of a worker here, where a cluster's GPU need not be."""
    if settings.backend == "local":
        return settings
    return replace(settings, detector=replace(settings.detector, device="auto"))


def with_device_of(there: DatasetInfo, planned: DatasetInfo) -> DatasetInfo:
    """Return the plan with the device of the data set that is there: a cluster's workers may have another than this."""
    was, now = there.fingerprint_fields, planned.fingerprint_fields
    fields = {name: value for name, value in now.items() if name != "cpus_per_worker"}
    if "cpus_per_worker" in was:
        fields["cpus_per_worker"] = was["cpus_per_worker"]
    device = was.get("extractor", {}).get("device", now["extractor"]["device"])
    return replace(planned, fingerprint_fields={**fields, "extractor": {**now["extractor"], "device": device}})


def rows_to_try_again(settings: ExtractSettings, folder: Folder, planned: DatasetInfo, done: DoneShards) -> int:
    """Return how many failed rows of shards that are done `--retry-failed` would try again."""
    if settings.retry_failed is None:
        return 0
    retries, _ = begin_retries(folder, done, planned.shards, settings.retry_failed)
    records = read_each_record(folder, sorted(retries.left - set(done.pending())))
    chosen = settings.retry_failed
    return sum(n for record in records for reason, n in record.failures.items() if not chosen or reason in chosen)


def report(name: str, planned: DatasetInfo, finished: int, rows: int, again: int, measure: Measure) -> list[str]:
    """Return the lines to print. rows: those that are still to be done; again: those to be tried once more."""
    left = planned.shards - finished
    to_do = rows + again
    return [
        f"{name}: {counted(planned.shards, 'shard')} of {counted(planned.shard_size, 'row')}, "
        f"{counted(planned.rows, 'row')}",
        f"done already: {counted(finished, 'shard')}, {counted(planned.rows - rows, 'row')}",
        f"to do: {counted(left, 'shard')}, {counted(rows, 'row')}",
        *([f"to try again: {counted(again, 'failed row')}"] if again else []),
        f"disk: {size(to_do * measure.bytes_a_row)} more, {size(planned.rows * measure.bytes_a_row)} in all",
        f"time: {timedelta(seconds=round(to_do / measure.rows_a_second))}",
        f"by {measure.source}: {measure.bytes_a_row:,.0f} bytes a row, {measure.rows_a_second:,.1f} rows/s",
        "nothing was written",
    ]


def measure_finished(folder: Folder, finished: list[int]) -> Measure | None:
    """Return what rows cost by the records of shards that are done and the account of the last run.

    None where there is no such account, or that run got nothing done.
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


def measure_sample(worker: Worker, manifest: Manifest, planned: DatasetInfo, device: str) -> Measure:
    """Return what some rows cost one worker of this process, its detector warm."""
    count = min(SAMPLE_ROWS, planned.rows)
    records = [manifest.read(row, row + 1)[0] for row in (number * planned.rows // count for number in range(count))]
    worker.try_rows(records[:1])  # the first pass builds what later ones use again
    begun = time.monotonic()
    outcomes = worker.try_rows(records)
    seconds = time.monotonic() - begun
    return Measure(
        bytes_a_row=sum(stored(outcome, planned.storage) for outcome in outcomes) / count,
        rows_a_second=count / seconds,
        source=f"{counted(count, 'row')} that one worker here tried just now, on the {device} (several share the time)",
    )


def stored(outcome: Sample | FailureRow, storage: StorageFormat) -> int:
    """Return the bytes that a row takes in its shard."""
    if isinstance(outcome, FailureRow):
        return 0
    if storage == "lmdb":
        return -(-(len(encode_tensors(outcome)) + 16) // 4096) * 4096  # whole pages, and the header of the first
    return sum(BLOCK + len(content) + padding(len(content)) for _, content in encode_members(outcome))


def size(number: float) -> str:
    """Return a number of bytes for a person."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:,.1f} {unit}"
        number /= 1000
    return f"{number:,.1f} TB"
