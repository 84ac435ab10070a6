"""Workers as Ray actors, on this machine or a cluster.

Nothing large crosses Ray's object store: an actor gets a shard's number and returns its record. Restarts and retries
are ours (`schedule.py`): Ray's own would run an image that kills its process for ever.
"""

from __future__ import annotations

from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from extractors.extractor import ExtractorError
from pipeline.extract.schedule import WorkerLostError
from pipeline.extract.settings import ExtractSettings
from pipeline.extract.worker import SHARDS_IN_FLIGHT, Description, Worker
from pipeline.shards.record import ShardRecord


def worker_resources(settings: ExtractSettings, cluster: dict[str, float]) -> tuple[float, int]:
    """Return (GPUs a worker, number of workers) for a cluster with these resources.

    Raises ExtractorError where not one worker fits.
    """
    wants_gpu = settings.detector.device != "cpu" and cluster.get("GPU", 0) > 0
    gpus = settings.gpus_per_worker if settings.gpus_per_worker is not None else float(wants_gpu)
    fitting = int(cluster.get("CPU", 0) // settings.cpus_per_worker)
    if gpus:
        fitting = min(fitting, int(cluster.get("GPU", 0) / gpus))
    wanted = fitting if settings.workers == "auto" else settings.workers
    if wanted > fitting or fitting == 0:
        raise ExtractorError(
            f"{wanted or 1} workers of {settings.cpus_per_worker} CPUs and {gpus:g} GPUs do not fit a Ray with "
            f"{cluster.get('CPU', 0):g} CPUs and {cluster.get('GPU', 0):g} GPUs: ask for fewer with --workers, "
            "--cpus-per-worker or --gpus-per-worker"
        )
    return gpus, wanted


class RayHandle:
    """A worker in an actor of its own."""

    def __init__(self, settings: ExtractSettings, gpus: float) -> None:
        import ray

        actor_class = ray.remote(
            num_cpus=settings.cpus_per_worker,
            num_gpus=gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=SHARDS_IN_FLIGHT + 1,  # shards, and questions about progress
        )(Worker)
        self._actor: Any = actor_class.remote(settings)
        self._question: Any = None
        self._rows_in_flight = 0

    def start(self) -> Future[Description]:
        """Build the detector."""
        return _translated(self._actor.start.remote().future())

    def extract_shard(self, shard: int, rows: tuple[int, int]) -> Future[ShardRecord]:
        """Write the shard of the manifest rows [start, stop)."""
        return _translated(self._actor.extract_shard.remote(shard, rows).future())

    def rows_in_flight(self) -> int:
        """Return the actor's last answer, and ask again: the driver never waits for one."""
        import ray

        if self._question is None:
            self._question = self._actor.rows_in_flight.remote()
        if ray.wait([self._question], timeout=0)[0]:
            with suppress(ray.exceptions.RayActorError):
                self._rows_in_flight = ray.get(self._question)
            self._question = None
        return self._rows_in_flight

    def close(self) -> None:
        """End the actor's process."""
        import ray

        ray.kill(self._actor)


def _translated(future: Future[Any]) -> Future[Any]:
    """Return a future that raises the worker's own error for one of Ray's, and WorkerLostError for a dead actor."""
    import ray

    translated: Future[Any] = Future()

    def pass_on(done: Future[Any]) -> None:
        error = done.exception()
        if isinstance(error, ray.exceptions.RayTaskError):
            translated.set_exception(error.cause)
        elif isinstance(error, ray.exceptions.RayActorError):
            translated.set_exception(WorkerLostError(str(error).splitlines()[0]))
        elif error is not None:
            translated.set_exception(error)
        else:
            translated.set_result(done.result())

    future.add_done_callback(pass_on)
    return translated
