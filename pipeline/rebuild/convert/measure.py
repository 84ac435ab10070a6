"""Measure the cost of a conversion for its dry run: some rows are converted as in the run, into a scratch folder.

A run also reads the shards of its sources once to compare their SHA-256. This is measured separately on a part of a
shard: a few rows may need many shards, which a dry run does not read completely.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from vilbert.pipeline.jobs.measure import SAMPLE_ROWS, Measure, stored_bytes
from vilbert.pipeline.jobs.worker import SHARDS_IN_FLIGHT
from vilbert.pipeline.rebuild.convert.baked_columns import BakedColumns
from vilbert.pipeline.rebuild.convert.plan import PlannedRows
from vilbert.pipeline.rebuild.convert.worker import ConvertWorker, Opened
from vilbert.pipeline.rebuild.dataset_source import DatasetSource
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.pipeline.shards.storage.verified import hash_part
from vilbert.pipeline.terminal import counted

TRIAL_ROWS, TRIAL_BYTES = 1000, 64 << 20
"""Maximum size that is written, and maximum number of bytes that are hashed, of a shard."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def measure_conversion(worker: ConvertWorker, planned: DatasetInfo, pending: Sequence[int]) -> Measure:
    """Return the cost of a kept row.

    Args:
        worker: A worker that writes into a scratch folder and does not compare SHA-256.
        planned: The planned output of the run.
        pending: Shards that are not finished.
    """
    with worker.opened() as opened:
        plan = opened.planned.plan
        spread = [plan.base_rows + place for place in opened.planned.spread(SAMPLE_ROWS)]
    bytes_a_row = stored_bytes(worker.try_rows(spread), planned.storage) / len(spread)
    with worker.opened() as opened:
        most = int(min(max(TRIAL_BYTES / max(bytes_a_row, 1), 1), TRIAL_ROWS))
        parts = list(_parts(opened.planned, planned, pending, most))
        sources = list(_datasets(opened))
        hashing = _hashing_seconds(sources, opened)
        if len(sources) < len(opened.sources.sources):
            del parts[1:]  # each thread would index the published file again
    for _ in range(2):  # the first pass opens shards, which the rows of a run find open
        seconds, done = _timed(lambda part: worker.make_shard(*part).record, parts)
    rows = sum(record.samples + sum(record.failures.values()) for record in done)
    return Measure(
        bytes_a_row=bytes_a_row,
        rows_a_second=1 / (seconds / rows + hashing / plan.kept),
        share=plan.kept / plan.rows,
        source=f"{counted(rows, 'row')} that one worker here converted just now (several share the time)",
    )


def _parts(
    rows: PlannedRows, planned: DatasetInfo, pending: Sequence[int], most: int
) -> Iterator[tuple[int, tuple[int, int]]]:
    """Yield (shard, rows) of as many shards as are made concurrently, with at most `most` kept rows each."""
    base = rows.plan.base_rows
    shards = [shard for shard in pending or range(planned.shards) if planned.shard_rows(shard)[0] >= base]
    for number in range(min(SHARDS_IN_FLIGHT, len(shards))):
        shard = shards[number * len(shards) // SHARDS_IN_FLIGHT]
        start, stop = planned.shard_rows(shard)
        places = rows.part(start - base, stop - base).places
        if len(places):
            yield shard, (start, stop if len(places) <= most else base + int(places[most]))


def _datasets(opened: Opened) -> Iterator[tuple[int, DatasetSource]]:
    """Yield the sources that are data sets, each with its index."""
    for number, source in enumerate(opened.sources.sources):
        if isinstance(source, BakedColumns):
            yield number, source.base
        elif isinstance(source, DatasetSource):
            yield number, source


def _hashing_seconds(sources: Sequence[tuple[int, DatasetSource]], opened: Opened) -> float:
    """Return the time to compare all shards with a kept row, in seconds."""
    total, files = 0, []
    for number, source in sources:
        needed: set[int] = set()
        for rows in opened.planned.kept_rows():
            inside = rows - opened.starts[number]
            needed |= source.shards_of(inside[(inside >= 0) & (inside < source.rows)])
        total += sum(map(source.shard_bytes, needed))
        files += [source.shard_file(shard) for shard in sorted(needed)[:SHARDS_IN_FLIGHT]]
    if not files:
        return 0.0
    seconds, sizes = _timed(lambda path: hash_part(path, TRIAL_BYTES), files[:SHARDS_IN_FLIGHT])
    return seconds * total / sum(sizes)


def _timed(act: Callable[[_Item], _Result], items: Iterable[_Item]) -> tuple[float, list[_Result]]:
    """Return the seconds that a function takes for all items concurrently, and its results."""
    with ThreadPoolExecutor(SHARDS_IN_FLIGHT) as threads:
        begun = time.monotonic()
        results = list(threads.map(act, items))
        return time.monotonic() - begun, results
