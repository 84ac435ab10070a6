"""The interface of a job, which makes each of its shards exactly once. `jobs/run.py` runs any job.

A job defines the content of the shards and builds workers that make them. Everything else is the same for all jobs: the
lock, the schedule, workers with Ray or without, recovery, progress, the dry run, completing the data set.
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
    """The settings of a job for the number and the resources of workers."""

    @property
    def workers(self) -> int | Literal["auto"]:
        """The maximum number of workers."""

    @property
    def gpus_per_worker(self) -> float | None:
        """GPUs of one worker; None selects automatically."""

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
    """Settings of every job."""

    @property
    def output(self) -> Place:
        """The folder of the data set, or its URL."""

    @property
    def backend(self) -> Literal["ray", "local"]:
        """ray: workers are Ray actors; local: one worker in this process."""

    @property
    def dashboard(self) -> bool:
        """Whether to start Ray's dashboard."""

    @property
    def shared(self) -> bool:
        """Whether other processes run the same command with the same output."""

    @property
    def price_per_hour(self) -> float | None:
        """Price of one worker hour, for the summary."""


class Job(Protocol):
    """A command that writes a data set shard by shard."""

    @property
    def command(self) -> str:
        """Command name without `vilbert`, such as `extract`, for messages."""

    @property
    def settings(self) -> JobSettings:
        """Settings from which each worker is built."""

    @property
    def worker(self) -> Callable[[Any], ShardWorker]:
        """Builds a worker from the settings; a class or function that other processes can import."""

    @property
    def on_gpu(self) -> bool:
        """Whether a worker gets a GPU if there is one."""

    @property
    def retry_failed(self) -> Sequence[str] | None:
        """Reasons of the failed rows to try again (empty: all); None: finished shards are kept."""

    def prepare(self, folder: Folder, *, dry: bool = False) -> AbstractContextManager[None]:
        """Prepare what workers need, before the first one starts and while no other process writes to the folder.

        The context is open as long as there are workers.

        Args:
            folder: The output folder.
            dry: Whether nothing may be written to the folder.
        """

    def plan(self, description: Description) -> DatasetInfo:
        """Return the planned content of the output folder, given the description of the workers."""

    def finished(self, folder: Folder) -> None:
        """Delete files that only unfinished shards need, and write the side files of the complete data set."""

    def summarise(self, info: DatasetInfo) -> int:
        """Log a summary of the complete data set and return the exit status."""

    def worker_here(self) -> ShardWorker:
        """Return a worker in this process, for the dry run."""

    def measure(self, worker: ShardWorker, planned: DatasetInfo, pending: Sequence[int]) -> Measure:
        """Return the cost of a row, for the dry run.

        Args:
            worker: The started worker of `worker_here`.
            planned: The planned output of the run.
            pending: The unfinished shards.
        """

    def like(self, existing: DatasetInfo, planned: DatasetInfo) -> tuple[DatasetInfo, DatasetInfo]:
        """Return the existing data set and the plan without differences that a dry run accepts."""
