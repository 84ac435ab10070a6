"""Training under Ray Train: a killed worker is replaced, an error of the user's comes through as it is."""

import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from vilbert.pipeline.errors import RefusedError, ShardError
from vilbert.pipeline.train.engine.distributed import PATIENCE
from vilbert.pipeline.train.run import ray_launch
from vilbert.pipeline.train.run.ray_launch import check_room, launch, worker_error

from . import ray_functions


@pytest.fixture
def _no_ray_left_behind(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # Ray reads it when it is imported, which ray_session otherwise does.
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(ray_functions)  # Ray's processes cannot import tests
    before = {process.pid for process in psutil.process_iter()}
    yield
    cloudpickle.unregister_pickle_by_value(ray_functions)
    deadline = time.monotonic() + 30
    while left := ray_processes(before):
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def ray_processes(before: set[int]) -> list[str]:
    """Return the command lines of Ray's processes that this session started."""
    me = os.getpid()
    found = []
    for process in psutil.process_iter(["pid", "ppid", "cmdline"]):
        line = " ".join(process.info["cmdline"] or [])
        ours = process.info["ppid"] in (me, 1) and process.info["pid"] not in before
        if ours and ("ray::" in line or "/ray/" in line):
            found.append(line)
    return found


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("_no_ray_left_behind")
def test_a_refusal_comes_through_without_another_try(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=r"^the run is of other settings: give another --output$"):
        launch(ray_functions.refused_on_one_rank, tmp_path, workers=2, use_gpu=False, run=tmp_path)
    assert (tmp_path / "starts-1").read_text() == "start\n"


@pytest.mark.ray
@pytest.mark.usefixtures("_no_ray_left_behind")
def test_its_workers_wait_for_one_another_as_long_as_those_of_torchrun(tmp_path: Path) -> None:
    trainer = ray_launch._trainer(
        ray_functions.refused_on_one_rank, tmp_path, tmp_path, workers=2, use_gpu=False, max_failures=0
    )
    assert trainer.backend_config.timeout_s == PATIENCE.total_seconds()


def test_a_cluster_without_room_for_one_worker_is_refused() -> None:
    with pytest.raises(RefusedError, match="each takes a CPU and a GPU"):
        check_room({"CPU": 8.0}, workers=2, use_gpu=True)


def test_fewer_workers_than_asked_for_are_announced(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check_room({"CPU": 8.0}, workers=8, use_gpu=False)
        assert not caplog.messages
        check_room({"CPU": 8.0, "GPU": 2.0}, workers=4, use_gpu=True)
    assert "room for 2" in caplog.text


def test_the_refusal_of_one_rank_goes_over_the_lost_connections_of_others() -> None:
    refusal = RefusedError("no")
    assert worker_error({0: RuntimeError("connection closed by peer"), 1: refusal}, tries=4) is refusal


def test_workers_that_keep_dying_say_what_to_do() -> None:
    error = worker_error({0: RuntimeError("connection closed by peer\nmore")}, tries=4)
    assert type(error) is ShardError
    assert "failed 4 times, most recently with: connection closed by peer; " in str(error)
    assert "Run the same command again" in str(error)


def test_a_ray_without_its_training_part_is_refused_before_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_launch, "find_spec", lambda name: None)
    monkeypatch.setattr(ray_launch, "ray_session", lambda *_, **__: pytest.fail("Ray was started"))
    with pytest.raises(RefusedError, match=r"pip install 'ray\[train\]'"):
        launch(ray_functions.refused_on_one_rank, tmp_path, workers=2, use_gpu=False, run=tmp_path)


@pytest.mark.ray
@pytest.mark.parametrize("kind", ["NodeDiedError", "RaySystemError", "ConnectionError"])
def test_a_ray_that_ends_says_how_to_resume(kind: str) -> None:
    from ray import exceptions

    class Trainer:
        def fit(self) -> None:
            raise ConnectionError("refused\nmore") if kind == "ConnectionError" else getattr(exceptions, kind)("gone")

    with pytest.raises(ShardError, match=r"^Ray has ended \(.*\); run the same command again to resume"):
        ray_launch._fit(Trainer(), threading.Event())
