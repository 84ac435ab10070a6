"""Measure the cost of a job's rows for its dry run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from vilbert.pipeline.jobs.worker import ShardWorker
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.location.layout import StorageFormat
from vilbert.pipeline.shards.sample import Sample, encode_members
from vilbert.pipeline.shards.storage.tensors import encode_tensors
from vilbert.pipeline.shards.storage.ustar import BLOCK, padding
from vilbert.pipeline.terminal import counted

SAMPLE_ROWS = 32
"""Number of rows to measure, spread over the rows of the run."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """Cost of a row."""

    bytes_a_row: float
    """Bytes of the files of samples per row, including failed rows."""
    rows_a_second: float
    share: float = 1.0
    """Fraction of rows with this cost; the others are dropped and cost nothing."""
    source: str
    """Origin of the measurement, as text."""


def measure_rows(worker: ShardWorker, rows: Sequence[int], storage: StorageFormat, *, where: str = "") -> Measure:
    """Return the cost of some rows in a warmed-up worker of this process, without writing them.

    where: Text about the place, such as ", on the cpu".
    """
    worker.try_rows(rows[:1])  # the first pass fills caches that later passes use
    begun = time.monotonic()
    outcomes = worker.try_rows(rows)
    seconds = time.monotonic() - begun
    return Measure(
        bytes_a_row=stored_bytes(outcomes, storage) / len(rows),
        rows_a_second=len(rows) / seconds,
        source=f"{counted(len(rows), 'row')} measured with one worker here{where} (several workers divide the time)",
    )


def stored_bytes(outcomes: Sequence[Sample | FailureRow], storage: StorageFormat) -> int:
    """Return the size of samples in a shard, in bytes."""
    samples = (outcome for outcome in outcomes if isinstance(outcome, Sample))
    if storage == "lmdb":  # full pages, with the header of the first
        return sum(-(-(len(encode_tensors(sample)) + 16) // 4096) * 4096 for sample in samples)
    members = (len(content) for sample in samples for _, content in encode_members(sample))
    return sum(BLOCK + size + padding(size) for size in members)
