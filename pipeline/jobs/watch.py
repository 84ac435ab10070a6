"""Progress of a run: the progress line, `.run.json`, metrics and the final summary."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from vilbert.pipeline import __version__
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.jobs.crew import Handle
from vilbert.pipeline.jobs.done import DoneShards
from vilbert.pipeline.jobs.metrics import Metrics
from vilbert.pipeline.jobs.progress import JobProgress
from vilbert.pipeline.jobs.run_state import RUN_FILE, RunState, encodable
from vilbert.pipeline.jobs.status import summary
from vilbert.pipeline.jobs.worker import ShardDone
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.location.process import this_process

logger = logging.getLogger(__name__)

SAVE_SECONDS, REMOTE_SAVE_SECONDS = 5.0, 30.0
"""Seconds between two writes of `.run.json`, to a disk and to an object store."""
HURRY_SECONDS = 1.0
"""Seconds that an interrupted run waits for a write in progress."""


class Renewal:
    """Writes the state once, and then periodically from a thread while the context is open and nothing calls `tick`."""

    def __init__(self, folder: Folder, state: RunState, begun: float, file: str = RUN_FILE) -> None:
        """Store the state of a run, its start by the monotonic clock, and the file to write."""
        self._folder, self._state, self._begun, self._file = folder, state, begun, file
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="account", daemon=True)
        self.at_work = True
        """Whether the state is still written from here."""

    def _renew(self) -> None:
        while not self._over.wait(save_seconds(self._folder)):
            self._state.seconds = time.monotonic() - self._begun
            save(self._folder, self._state, self._file)

    def end(self, error: BaseException | None = None) -> None:
        """Stop writing. error: what ends the block; after an interrupt, an unreachable store is not waited for."""
        self._over.set()
        self._thread.join(HURRY_SECONDS if isinstance(error, KeyboardInterrupt) else None)
        self.at_work = False

    def __enter__(self) -> Self:
        save(self._folder, self._state, self._file)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(error)


@contextmanager
def starting(folder: Folder, file: str = RUN_FILE) -> Iterator[Renewal]:
    """Write that a run is starting, until its `Watch` takes over; if the start fails, write how it ended."""
    state = RunState(state="starting", software=__version__, holder=this_process(), begun=time.time())
    with Renewal(folder, state, time.monotonic(), file) as renewal:
        try:
            yield renewal
        except BaseException as error:
            if renewal.at_work:
                renewal.end(error)
                state.ends(error)
                save(folder, state, file)
            raise


def save_seconds(folder: Folder) -> float:
    """Return the seconds between two writes of the state."""
    return REMOTE_SAVE_SECONDS if folder.remote else SAVE_SECONDS


def save(folder: Folder, state: RunState, file: str = RUN_FILE) -> None:
    """Write `.run.json`, or another state file, if possible."""
    state.updated = time.time()
    try:
        folder.write(file, encode_json(state.to_json()) + b"\n")
    except (OSError, ShardError) as error:
        logger.debug("%s: %s cannot be written: %s", folder.name, file, error)


class Watch:
    """Keeps a run's state while the context is open. Errors of writing it do not affect the run."""

    def __init__(
        self,
        folder: Folder,
        planned: DatasetInfo,
        done: DoneShards,
        *,
        command: str,
        log: Path | None,
        metrics: bool,
        price_per_hour: float | None,
        state_file: str = RUN_FILE,
    ) -> None:
        """Start the state of a run that resumes from the finished shards.

        Args:
            folder: The output folder.
            planned: The planned data set.
            done: The finished shards.
            command: The job's command, for the progress line and metrics.
            log: The path of the run's log.
            metrics: Whether to export the counts as Prometheus metrics.
            price_per_hour: The price of one worker's hour, for the summary.
            state_file: The file of the state.
        """
        pending = done.pending()
        rows = planned.rows - sum(stop - start for start, stop in map(planned.shard_rows, pending))
        self._folder, self._state_file = folder, state_file
        self._begun = self._ticked = time.monotonic()
        self._saved = float("-inf")
        self._failures: Counter[str] = Counter()
        self._metrics = Metrics(command, folder.name) if metrics else None
        self._progress = JobProgress(command, planned.rows, rows)
        self.state = RunState(
            software=__version__,
            holder=this_process(),
            log=None if log is None else encodable(str(log)),
            begun=time.time(),
            rows=planned.rows,
            rows_before=rows,
            rows_done=rows,
            shards=planned.shards,
            shards_done=planned.shards - len(pending),
            failures_before=done.failed_rows,
            price_per_hour=price_per_hour,
        )

    def note(self, made: ShardDone) -> None:
        """Add a finished shard."""
        state, record = self.state, made.record
        state.rows_done += record.rows[1] - record.rows[0]
        state.rows_before += made.kept
        state.shards_done += 1
        state.samples += record.samples
        state.bytes += record.bytes
        state.detector_seconds += made.busy_seconds
        self._failures.update(record.failures)
        state.failures = dict(sorted(self._failures.items()))

    def note_elsewhere(self, shards: Sequence[tuple[int, int]]) -> None:
        """Add shards that other tasks made, by their rows [start, stop)."""
        rows = sum(stop - start for start, stop in shards)
        self.state.rows_done += rows
        self.state.rows_before += rows
        self.state.shards_done += len(shards)

    def tick(self, workers: Sequence[Handle], lost: int) -> None:
        """Update the state with the ready workers and the number of lost workers."""
        now, state = time.monotonic(), self.state
        state.seconds = now - self._begun
        state.worker_seconds += (now - self._ticked) * len(workers)
        state.workers, state.workers_lost = len(workers), lost
        # A worker's pulse can be older than the record of its shard.
        state.rows_in_work = min(sum(worker.pulse().rows for worker in workers), state.rows - state.rows_done)
        self._ticked = now
        self._progress.show(state.rows_done + state.rows_in_work, state.failed)
        if now - self._saved >= save_seconds(self._folder):
            self._save()

    def finishing(self) -> Renewal:
        """Keep the state up to date while the data set is being completed and nothing calls `tick`."""
        return Renewal(self._folder, self.state, self._begun, self._state_file)

    def _save(self) -> None:
        if self._metrics is not None:
            self._metrics.show(self.state)
        save(self._folder, self.state, self._state_file)
        self._saved = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        state = self.state
        state.workers = state.rows_in_work = 0
        state.seconds = time.monotonic() - self._begun
        state.ends(error)
        self._progress.close(state.rows_done, state.failed)
        self._save()
        logger.info("%s", "\n".join(["this run:", *summary(state)]))
