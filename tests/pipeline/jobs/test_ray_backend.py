"""Actors that end in every way Ray knows, and none of them ends the run."""

import subprocess
import sys
import time
from concurrent.futures import Future
from pathlib import Path

import psutil
import pytest

from vilbert.extractors.extractor import DetectorSettings
from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import DeviceLostError, FingerprintError, ShardError
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.extract.worker import Worker
from vilbert.pipeline.jobs import ray_backend
from vilbert.pipeline.jobs.crew import Crew, WorkerLostError
from vilbert.pipeline.jobs.ray_backend import RayHandle, no_process_yet, room_now, translated
from vilbert.pipeline.ray_session import ray_session

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
        ray.exceptions.RayTaskError("make_shard", "its traceback", DeviceLostError("the GPU failed: Xid 79")),
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
    assert of(ray.exceptions.RayTaskError("make_shard", "its traceback", cause)) is cause


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let each call look at the cluster's resources, of which there are none: all its nodes are dead."""
    monkeypatch.setattr(ray_backend, "SECONDS_BETWEEN_LOOKS", 0.0)
    monkeypatch.setattr(ray, "cluster_resources", dict)


def settings(tmp_path: Path, **changes: object) -> ExtractSettings:
    return ExtractSettings(manifest=tmp_path / "none.parquet", output=tmp_path / "features", **changes)


@pytest.mark.usefixtures("looks")
def test_a_private_ray_whose_only_node_died_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(ShardError, match="run the same command again, or with --backend local"):
        room_now(settings(tmp_path), 0.0, 1)()


@pytest.mark.usefixtures("looks")
def test_a_cluster_without_nodes_is_waited_for_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    room = room_now(settings(tmp_path, ray_address="auto"), 0.0, 1)
    assert room() == 0  # its head may be starting again
    monkeypatch.setattr(ray_backend, "SECONDS_WITHOUT_NODES", 0.0)
    with pytest.raises(ShardError, match="start the cluster and run the same command again"):
        room()


@pytest.mark.usefixtures("looks")
def test_a_cluster_with_nodes_but_without_room_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"node:127.0.0.1": 1.0})
    monkeypatch.setattr(ray_backend, "SECONDS_WITHOUT_NODES", 0.0)
    room = room_now(settings(tmp_path, ray_address="auto"), 0.0, 1)
    assert [room(), room()] == [0, 0]


def test_what_is_said_of_a_slow_process_is_of_the_ray_that_starts_it(tmp_path: Path) -> None:
    assert "cluster" not in no_process_yet(settings(tmp_path))
    assert "the cluster may be busy" in no_process_yet(settings(tmp_path, ray_address="auto"))


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_ends_within_three_minutes_of_the_death_of_its_node(tmp_path: Path) -> None:
    shapes, listed, output = tmp_path / "shapes", tmp_path / "m.parquet", tmp_path / "features"
    assert main(["shapes", str(shapes), "--scenes", "400"]) == 0
    annotations = shapes / "karpathy" / "dataset_coco.json"
    assert main(["manifest", str(annotations), "--images", str(shapes), "--output", str(listed)]) == 0
    arguments = ["extract", str(listed), "--output", str(output), "--detector", "shapes", "--shard-size", "4"]
    child = psutil.Popen(
        [sys.executable, "-m", "vilbert.pipeline.cli", *arguments, "--workers", "1"], stderr=subprocess.PIPE, text=True
    )
    try:
        deadline = time.monotonic() + 300
        while len(list((output / "shards").glob("*.json"))) < 2:
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.1)
        [raylet] = [process for process in child.children(recursive=True) if process.name() == "raylet"]
        raylet.kill()
        _, messages = child.communicate(timeout=180)
    finally:
        for process in [*child.children(recursive=True), child] if child.is_running() else []:
            process.kill()
    assert child.returncode == 1
    assert "run the same command again" in messages
    assert "Traceback" not in messages


@pytest.mark.ray
@pytest.mark.slow
def test_actors_that_answer_nothing_are_all_left_within_seconds(tmp_path: Path) -> None:
    settings = ExtractSettings(
        manifest=tmp_path / "none.parquet", output=tmp_path / "features", detector=DetectorSettings(detector="shapes"),
        cpus_per_worker=64,
    )  # fmt: skip
    with ray_session(None, instead="do without"):
        crew = Crew(lambda: RayHandle(Worker, settings, 0.0, 8), lambda: 8)  # no machine has room for one of them
        crew.tend(8)
        begun = time.monotonic()
        crew.close()
        assert time.monotonic() - begun < 8
