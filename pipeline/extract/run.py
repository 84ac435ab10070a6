"""`vilbert extract`: from a manifest and a detector to a complete data set.

The driver plans, hands out shards, counts and closes. It reads no image and holds no features.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType

from manifests.manifest import Manifest
from pipeline.extract.plan import begin_dataset, differences, finish_dataset, make_folder, pending_shards, plan_dataset
from pipeline.extract.progress import ExtractProgress
from pipeline.extract.schedule import Handle, WorkerLostError, schedule
from pipeline.extract.settings import ExtractSettings
from pipeline.extract.worker import Description
from pipeline.shards.atomic import sweep_temporary
from pipeline.shards.dataset import DatasetInfo
from pipeline.shards.errors import FingerprintError, ShardError
from pipeline.shards.layout import record_path, record_paths
from pipeline.shards.lock import exclusive_writer
from pipeline.shards.record import ShardRecord, read_record
from pipeline.signals import handling

logger = logging.getLogger(__name__)


def extract(settings: ExtractSettings) -> int:
    """Write the shards that are not there yet; return 0, 1 where every row failed, or 130 where it was interrupted."""
    manifest = Manifest.open(settings.manifest)
    if manifest.rows == 0:
        logger.error("%s has no rows: there is nothing to extract", settings.manifest)
        return 1
    make_folder(settings.output)
    with exclusive_writer(settings.output):
        sweep_temporary(settings.output)  # of a run that was killed
        try:
            written = write_pending_shards(settings, manifest)
        except KeyboardInterrupt:
            done = len(record_paths(settings.output))
            logger.warning("interrupted: %d shards are done and stay; run the same command again to go on", done)
            return 130
        finally:
            sweep_temporary(settings.output)  # of workers that were killed
        info = finish_dataset(settings)
    if not written:
        logger.info("nothing to do: %s is complete", settings.output)
    return summarise(settings, info)


def write_pending_shards(settings: ExtractSettings, manifest: Manifest) -> int:
    """Start workers, check that the data set is theirs to go on with, write the missing shards; return their number."""
    with ExitStack() as stack:
        start_handle, number = stack.enter_context(backend(settings))
        stack.enter_context(terminate_like_interrupt())
        workers = [start_handle()]
        stack.callback(close_all, workers)
        description = started(workers[0].start())
        planned = plan_dataset(settings, manifest, description)
        begin_dataset(settings, planned)
        pending = pending_shards(settings, planned)
        workers += [start_handle() for _ in range(min(number, len(pending)) - 1)]
        check_alike(workers[1:], description)

        def start_worker() -> Handle:
            worker = start_handle()
            check_alike([worker], description)
            return worker

        if pending:
            rows = {shard: planned.shard_rows(shard) for shard in pending}
            report(settings.output, planned, pending, workers, schedule(start_worker, workers, rows))
        return len(pending)


def report(
    output: Path,
    planned: DatasetInfo,
    pending: Sequence[int],
    workers: Sequence[Handle],
    records: Iterator[ShardRecord | None],
) -> None:
    """Drive the extraction to its end, keeping a progress line."""

    def length(rows: tuple[int, int]) -> int:
        return rows[1] - rows[0]

    done = planned.rows - sum(length(planned.shard_rows(shard)) for shard in pending)
    finished = sorted(set(range(planned.shards)) - set(pending))
    failures = sum(sum(read_record(record_path(output, shard)).failures.values()) for shard in finished)
    line = ExtractProgress(planned.rows, done)
    try:
        for record in records:
            if record is not None:
                done += length(record.rows)
                failures += sum(record.failures.values())
            # A worker's answer can be older than the record of its shard.
            line.show(min(planned.rows, done + sum(worker.rows_in_flight() for worker in workers)), failures)
    finally:
        line.close(done, failures)


def close_all(workers: Sequence[Handle]) -> None:
    """End the workers."""
    for worker in workers:
        worker.close()


@contextmanager
def backend(settings: ExtractSettings) -> Iterator[tuple[Callable[[], Handle], int]]:
    """Yield a function that makes a worker, and how many there shall be."""
    if settings.backend == "local":
        from pipeline.extract.local_backend import LocalHandle

        yield lambda: LocalHandle(settings), 1
    else:
        from pipeline.extract.ray_backend import RayHandle, worker_resources
        from pipeline.ray_session import ray_session

        instead = "use --backend local for one worker in this process"
        with ray_session(settings.ray_address, instead=instead, dashboard=settings.dashboard) as cluster:
            gpus, number = worker_resources(settings, cluster)
            yield lambda: RayHandle(settings, gpus), number


def started(starting: Future[Description]) -> Description:
    """Return the description of a worker that is starting; raise ShardError where its process dies over it."""
    try:
        return starting.result()
    except WorkerLostError as error:
        raise ShardError(f"a worker died while it built the detector ({error}); is there memory enough?") from error


def check_alike(workers: Sequence[Handle], description: Description) -> None:
    """Start workers side by side; raise FingerprintError where one has another detector than the first worker."""
    starting = [worker.start() for worker in workers]
    for found in map(started, starting):
        if found.fingerprint != description.fingerprint:
            lines = "; ".join(differences(description.fingerprint, found.fingerprint))
            raise FingerprintError(
                f"the workers' detectors differ ({lines}): all must have the same weights and the same kind of device"
            )


@contextmanager
def terminate_like_interrupt() -> Iterator[None]:
    """Let SIGTERM, which schedulers send before they kill, end the run as Ctrl-C does."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with handling(interrupt, signal.SIGTERM):
        yield


def summarise(settings: ExtractSettings, info: DatasetInfo) -> int:
    """Say what the data set holds; return 1 where it holds no sample."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(info.totals.failures.items()))
    logger.info(
        "%s: %d samples%s; check with: vilbert verify %s --deep",
        settings.output,
        info.totals.samples,
        f", {sum(info.totals.failures.values())} failures ({reasons})" if reasons else "",
        settings.output,
    )
    if info.totals.samples == 0:
        logger.error("every row failed; the reasons are in %s/failures/", settings.output)
        return 1
    return 0
