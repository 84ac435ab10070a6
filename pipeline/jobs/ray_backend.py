"""Workers as Ray actors, on this machine or a cluster.

No large objects are sent through Ray's object store: an actor gets a shard's number and returns its record. Restarts
and retries are implemented in `schedule.py`, because Ray would retry an image that kills its process forever.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from vilbert.extractors.extractor import ExtractorError
from vilbert.pipeline import allocator, openmp
from vilbert.pipeline.errors import DeviceLostError, ShardError
from vilbert.pipeline.jobs.crew import WorkerLostError
from vilbert.pipeline.jobs.job import WorkerSettings
from vilbert.pipeline.jobs.stall import Pulse
from vilbert.pipeline.jobs.worker import SHARDS_IN_FLIGHT, Description, ShardDone, ShardWorker

SECONDS_BETWEEN_LOOKS = 10.0
"""Seconds between two queries of a cluster's resources."""
SECONDS_WITHOUT_NODES = 60.0
"""Seconds that a joined cluster may have no node, while its head restarts."""
PULSE_SECONDS = 10.0
"""Minimum seconds between two queries of a worker."""
QUESTIONS_A_SECOND = 0.5
"""Approximate number of queries per second to all workers; with many workers they dominate the driver's load."""
_STOP_SECONDS = 2.0


def worker_resources(settings: WorkerSettings, cluster: dict[str, float], *, on_gpu: bool = True) -> tuple[float, int]:
    """Return (GPUs per worker, number of workers) for a cluster with these resources.

    on_gpu: whether a worker gets a GPU if there is one and --gpus-per-worker is not set.

    On a cluster, which may grow, --workers is an upper bound. On a single machine, more workers than fit are refused
    with ExtractorError. A cluster on which no worker fits is refused, too, unless --gpus-per-worker says what to wait
    for.
    """
    wants_gpu = on_gpu and cluster.get("GPU", 0) > 0
    gpus = settings.gpus_per_worker if settings.gpus_per_worker is not None else float(wants_gpu)
    fitting = room_for(settings, gpus, cluster)
    wanted = fitting if settings.workers == "auto" else settings.workers
    waits = settings.ray_address is not None and bool(settings.gpus_per_worker)
    if (wanted > fitting and settings.ray_address is None) or (fitting == 0 and not waits):
        raise ExtractorError(
            f"{wanted or 1} workers with {settings.cpus_per_worker} CPUs and {gpus:g} GPUs do not fit on a Ray cluster "
            f"with {cluster.get('CPU', 0):g} CPUs and {cluster.get('GPU', 0):g} GPUs: request fewer with --workers, "
            "--cpus-per-worker or --gpus-per-worker"
        )
    return gpus, min(wanted, fitting)


def room_for(settings: WorkerSettings, gpus: float, cluster: dict[str, float]) -> int:
    """Return how many workers fit on a cluster with these resources."""
    fitting = int(cluster.get("CPU", 0) // settings.cpus_per_worker)
    return min(fitting, int(cluster.get("GPU", 0) / gpus)) if gpus else fitting


def room_now(settings: WorkerSettings, gpus: float, first: int) -> Callable[[], int]:
    """Return a function that returns how many workers fit the cluster, which is queried every few seconds.

    first: the result of the last query.
    """
    seen = first
    looked = had_nodes = time.monotonic()

    def number() -> int:
        import ray

        nonlocal seen, looked, had_nodes
        if time.monotonic() - looked < SECONDS_BETWEEN_LOOKS:
            return seen
        try:
            resources = ray.cluster_resources()
        except (ray.exceptions.RayError, ConnectionError) as error:
            raise ShardError(f"the connection to the Ray cluster was lost ({error}); {_again(settings)}") from error
        looked = time.monotonic()
        if resources:  # every node has resources
            had_nodes = looked
        else:
            _require_nodes(settings, looked - had_nodes)
        fitting = room_for(settings, gpus, resources)
        seen = fitting if settings.workers == "auto" else min(fitting, settings.workers)
        return seen

    return number


def no_process_yet(settings: WorkerSettings) -> str:
    """Return the message for a worker whose process takes long to start."""
    if settings.ray_address is None:
        return "Ray has not started its process yet; this machine may be busy"
    return "Ray has not started its process yet; the cluster may be busy"


def _require_nodes(settings: WorkerSettings, seconds: float) -> None:
    """Raise ShardError if no node of the Ray cluster is left; this process needs the node on its own machine."""
    if settings.ray_address is None:
        raise ShardError(f"Ray's node on this machine has died; {_again(settings)}")
    if seconds >= SECONDS_WITHOUT_NODES:
        raise ShardError(f"no node of the Ray cluster has been alive for {seconds:.0f} s; {_again(settings)}")


def _again(settings: WorkerSettings) -> str:
    start = "" if settings.ray_address is None else "start the cluster and "
    without = ", or with --backend local" if settings.ray_address is None else ""
    return f"finished shards are kept: {start}run the same command again{without}"


Settings = TypeVar("Settings", bound=WorkerSettings)


class RayHandle:
    """A worker in its own actor."""

    stuck = False

    def __init__(
        self, worker: Callable[[Settings], ShardWorker], settings: Settings, gpus: float, workers: int
    ) -> None:
        """Start the actor.

        Args:
            worker: The class of the worker, built in the actor from the settings.
            settings: The settings of the job.
            gpus: GPUs of this worker.
            workers: The approximate number of workers.
        """
        import ray

        actor_class = ray.remote(
            num_cpus=settings.cpus_per_worker,
            num_gpus=gpus,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=SHARDS_IN_FLIGHT + 1,  # shards, and pulse requests
            runtime_env={"env_vars": {**allocator.ENVIRONMENT, **openmp.wait_policy()}},
        )(worker)
        self._actor: Any = actor_class.remote(settings)
        self._patience = max(PULSE_SECONDS, workers / QUESTIONS_A_SECOND)
        if settings.stall_seconds:
            self._patience = min(self._patience, settings.stall_seconds / 4)
        self._asking = False
        self._asked = float("-inf")
        self._stopping: Any = None
        self._stop_until = 0.0
        self._pulse = Pulse(0, 0)

    def start(self) -> Future[Description]:
        """Start the worker."""
        return translated(self._actor.start.remote().future())

    def make_shard(self, shard: int, rows: tuple[int, int], retry: bool = False) -> Future[ShardDone]:
        """Write the shard of the rows [start, stop)."""
        return translated(self._actor.make_shard.remote(shard, rows, retry).future())

    def pulse(self) -> Pulse:
        """Return the actor's last answer, and query it from time to time; the driver never waits for an answer."""
        if not self._asking and time.monotonic() - self._asked >= self._patience:
            self._asking = True
            self._actor.pulse.remote().future().add_done_callback(self._take_answer)
        return self._pulse

    def _take_answer(self, answer: Future[Pulse]) -> None:
        if answer.exception() is None:
            self._pulse = answer.result()
        self._asked, self._asking = time.monotonic(), False

    def stop(self) -> None:
        """Ask the actor to abandon its shards."""
        self._stopping = self._actor.stop.remote()
        self._stop_until = time.monotonic() + _STOP_SECONDS

    def close(self) -> None:
        """End the actor's process; after `stop`, it has a moment to record the end in its journals."""
        import ray

        if self._stopping is not None:
            ray.wait([self._stopping], timeout=max(0.0, self._stop_until - time.monotonic()))
        ray.kill(self._actor)


def in_a_line(error: Exception) -> str:
    """Return the message of an error of Ray in one line, including the node and the reason."""
    return " ".join(str(error).split())[:500] or repr(error)


def translated(future: Future[Any]) -> Future[Any]:
    """Return a future that raises the worker's own error in place of Ray's, and WorkerLostError for a dead actor."""
    import ray

    translated: Future[Any] = Future()

    def pass_on(done: Future[Any]) -> None:
        error = done.exception()
        if isinstance(error, ray.exceptions.RayTaskError):
            cause = error.cause
            translated.set_exception(WorkerLostError(str(cause)) if isinstance(cause, DeviceLostError) else cause)
        elif isinstance(error, ray.exceptions.RayError):  # died, was killed for memory, or the node was lost
            translated.set_exception(WorkerLostError(in_a_line(error)))
        elif error is not None:
            translated.set_exception(error)
        else:
            translated.set_result(done.result())

    future.add_done_callback(pass_on)
    return translated
