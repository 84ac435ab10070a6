"""Start a job's workers, plan its data set with their description, and end them in every case."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Event

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.jobs.crew import Crew
from vilbert.pipeline.jobs.job import Job
from vilbert.pipeline.jobs.plan import check_alike
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.location.retry import hurry
from vilbert.pipeline.signals import undisturbed


@contextmanager
def planning(job: Job, folder: Folder, hung: Event) -> Iterator[tuple[Crew, DatasetInfo]]:
    """Start workers and yield them with the data set that they write."""
    with ExitStack() as stack:
        with disk_errors(folder):
            stack.enter_context(job.prepare(folder))
        crew = stack.enter_context(backend(job))
        stack.callback(close, crew, hung)
        description = crew.first()
        crew.require(lambda other: check_alike(description, other))
        yield crew, job.plan(description)


@contextmanager
def backend(job: Job) -> Iterator[Crew]:
    """Yield the worker pool of the selected backend."""
    settings = job.settings
    if settings.backend == "local":
        from vilbert.pipeline.jobs.local_backend import LocalHandle

        yield Crew(lambda: LocalHandle(job.worker(settings)), lambda: 1)
    else:
        from vilbert.pipeline.jobs.ray_backend import RayHandle, no_process_yet, room_now, worker_resources
        from vilbert.pipeline.ray_session import ray_session

        instead = "use --backend local for one worker in this process"
        with ray_session(settings.ray_address, instead=instead, dashboard=settings.dashboard) as cluster:
            gpus, number = worker_resources(settings, cluster, on_gpu=job.on_gpu)
            yield Crew(
                lambda: RayHandle(job.worker, settings, gpus, number),
                room_now(settings, gpus, number),
                no_process=no_process_yet(settings),
            )


def close(crew: Crew, hung: Event) -> None:
    """End the workers within seconds, ignoring further interrupts meanwhile."""
    with undisturbed():
        crew.close()
    if crew.stuck:
        hung.set()


@contextmanager
def hurrying() -> Iterator[None]:
    """If the block is interrupted, do not wait for unreachable stores in the remaining writes."""
    try:
        yield
    except KeyboardInterrupt:
        hurry()
        raise


@contextmanager
def disk_errors(folder: Folder) -> Iterator[None]:
    """Raise ShardError if the output cannot be written."""
    try:
        yield
    except OSError as error:
        raise ShardError(
            f"{folder.name}: cannot be written ({error.strerror or error}); free space or check its permissions, then "
            "run the same command again to resume"
        ) from error
