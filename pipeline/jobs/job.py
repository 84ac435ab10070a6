"""What a job is: "make these shards, exactly once". `jobs/run.py` runs any job.

A job says what the shards hold and builds workers that make one shard each. Everything else is the same for all jobs:
the lock, the schedule, workers with Ray or without, recovery, progress, the dry run, the end of the data set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, Protocol

from vilbert.pipeline.jobs.measure import Measure
from vilbert.pipeline.jobs.worker import Description, ShardWorker
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.pipeline.shards.location.folder import Folder, Place


class WorkerSettings(Protocol):
    """The settings of a job that say how many workers it has, and of what size."""

    @property
    def workers(self) -> int | Literal["auto"]:
        """The maximum number of workers."""

    @property
    def gpus_per_worker(self) -> float | None:
        """GPUs of one worker; None chooses."""

    @property
    def cpus_per_worker(self) -> int:
        """CPUs of one worker."""

    @property
    def stall_seconds(self) -> float:
        """Seconds without progress before a worker is restarted; 0 disables it."""

    @property
    def ray_address(self) -> str | None:
        """The address of a running cluster; None starts Ray on this machine."""


class JobSettings(WorkerSettings, Protocol):
    """The settings that every job has."""

    @property
    def output(self) -> Place:
        """The folder of the data set, or its URL."""

    @property
    def backend(self) -> Literal["ray", "local"]:
        """Whether workers are Ray actors, or one worker runs in this process."""

    @property
    def dashboard(self) -> bool:
        """Whether to start Ray's dashboard."""

    @property
    def shared(self) -> bool:
        """Whether other processes run the same command on the same output."""

    @property
    def price_per_hour(self) -> float | None:
        """The price of one worker's hour, for the summary."""


class Job(Protocol):
    """A command that writes a data set shard by shard."""

    @property
    def command(self) -> str:
        """The command without `vilbert`, such as `extract`; for messages."""

    @property
    def settings(self) -> JobSettings:
        """The settings that each worker is built from."""

    @property
    def worker(self) -> Callable[[Any], ShardWorker]:
        """Build a worker from the settings; a class or function that another process can import."""

    @property
    def on_gpu(self) -> bool:
        """Whether a worker gets a GPU where there is one."""

    @property
    def retry_failed(self) -> Sequence[str] | None:
        """Reasons of the failed rows to try again, all where it is empty; None where finished shards stay."""

    def prepare(self, folder: Folder, *, dry: bool = False) -> AbstractContextManager[None]:
        """Get ready what workers need, before the first one starts and while no other process writes to the folder.

        The context lasts as long as the workers.

        Args:
            folder: The output folder.
            dry: Whether nothing may be written to it.
        """

    def plan(self, description: Description) -> DatasetInfo:
        """Return what the output folder is to hold, given what the workers say of themselves."""

    def finished(self, folder: Folder) -> None:
        """Delete what only unfinished shards need, and write what only a complete data set has: its side files."""

    def summarise(self, info: DatasetInfo) -> int:
        """Log what the complete data set holds and return the exit status."""

    def worker_here(self) -> ShardWorker:
        """Return a worker of this process for the dry run."""

    def measure(self, worker: ShardWorker, planned: DatasetInfo, pending: Sequence[int]) -> Measure:
        """Return what a row costs, for the dry run.

        Args:
            worker: That of `worker_here`, started.
            planned: What the run is to write.
            pending: The shards that are not done.
        """

    def like(self, existing: DatasetInfo, planned: DatasetInfo) -> tuple[DatasetInfo, DatasetInfo]:
        """Return the existing data set and the plan without the differences that a dry run accepts."""
