"""Actors that end in every way Ray knows, and none of them ends the run."""

import time
from concurrent.futures import Future
from pathlib import Path

import pytest

from extractors.extractor import DetectorSettings
from pipeline.extract.crew import Crew, WorkerLostError
from pipeline.extract.ray_backend import RayHandle, translated
from pipeline.extract.settings import ExtractSettings
from pipeline.extract.stopped import DeviceLostError
from pipeline.ray_session import ray_session
from pipeline.shards.errors import FingerprintError

ray = pytest.importorskip("ray")


def of(error: Exception) -> BaseException | None:
    """Return what becomes of an actor's error."""
    future: Future[None] = Future()
    found = translated(future)
    future.set_exception(error)
    return found.exception(timeout=10)


@pytest.mark.parametrize(
    "error",
    [
        ray.exceptions.ActorDiedError(),
        ray.exceptions.ActorUnavailableError("the connection is cut", None),
        ray.exceptions.ActorUnschedulableError("no node fits"),
        ray.exceptions.OutOfMemoryError("Task was killed due to the node running low on memory.\nMore of it."),
        ray.exceptions.NodeDiedError("the node is gone"),
        ray.exceptions.RayError(),
        ray.exceptions.RuntimeEnvSetupError("no such package"),
        ray.exceptions.RayTaskError("extract_shard", "its traceback", DeviceLostError("the GPU failed: Xid 79")),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_takes_an_actor_its_shard_goes_to_another(error: Exception) -> None:
    found = of(error)
    assert isinstance(found, WorkerLostError)
    assert str(found)
    assert "\n" not in str(found)


def test_what_the_worker_itself_raises_is_raised() -> None:
    cause = FingerprintError("other weights")
    assert of(ray.exceptions.RayTaskError("extract_shard", "its traceback", cause)) is cause


@pytest.mark.ray
@pytest.mark.slow
def test_actors_that_answer_nothing_are_all_left_within_seconds(tmp_path: Path) -> None:
    settings = ExtractSettings(
        manifest=tmp_path / "none.parquet", output=tmp_path / "features", detector=DetectorSettings(detector="shapes"),
        cpus_per_worker=64,
    )  # fmt: skip
    with ray_session(None, instead="do without"):
        crew = Crew(lambda: RayHandle(settings, 0.0, 8), lambda: 8)  # no machine has room for one of them
        crew.tend(8)
        begun = time.monotonic()
        crew.close()
        assert time.monotonic() - begun < 8
