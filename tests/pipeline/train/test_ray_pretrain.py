"""`vilbert pretrain --workers 2`: one process's losses, whoever of the group is killed, and errors as they are."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.train.run.folder import writing
from vilbert.pipeline.train.run.journal import read_journal

from .tiny_runs import WITHOUT_DROPOUT, journal, pretrain_arguments

pytestmark = [pytest.mark.ray, pytest.mark.slow]

STEPS = 150


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    """Return a data set with a model's config beside it."""
    folder = tmp_path_factory.mktemp("data")
    make_dataset(folder / "a", samples=21, shard_size=5, splits=lambda row: "val" if row % 4 == 3 else "train")
    (folder / "model.json").write_text(json.dumps(WITHOUT_DROPOUT))
    return folder


def arguments(data: Path, output: Path, *more: str) -> list[str]:
    sizes = {"steps": STEPS, "batch_size": 7, "eval_every": 50, "save_every": 4}
    return [*pretrain_arguments([data / "a"], output, data / "model.json", **sizes), *more]


def start(command: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-m", "vilbert.pipeline.cli", *command], stderr=subprocess.PIPE, text=True)


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str], *, seconds: float = 90) -> None:
    """Wait until the journal has the line of a step, or the run has ended."""
    deadline = time.monotonic() + seconds
    while process.poll() is None and not any(entry["step"] >= step for entry in read_journal(run)):
        assert time.monotonic() < deadline, "nothing happens"
        time.sleep(0.01)


def first_worker(run: Path) -> int:
    """Return the process that holds the run's folder: that of rank 0."""
    return int((run / ".lock").read_text().split()[1])


def train_workers() -> set[int]:
    """Return the processes of the Ray of this session that train."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has just ended
            if "RayTrainWorker" in " ".join(child.cmdline()):
                found.add(child.pid)
    return found


def other_worker(run: Path) -> int:
    """Return the process of rank 1."""
    (found,) = train_workers() - {first_worker(run)}
    return found


def test_killed_and_interrupted_a_group_of_two_is_the_undisturbed_process(
    data: Path, tmp_path: Path, ray_cluster: str
) -> None:
    """Seven pairs for two ranks; each rank is killed once, then the command itself is interrupted."""
    alone, both = tmp_path / "alone", tmp_path / "both"
    command = arguments(data, both, "--workers", "2", "--ray-address", ray_cluster)
    process = start(command)
    wait_for_step(both, 10, process)
    os.kill(other_worker(both), signal.SIGKILL)
    wait_for_step(both, 25, process)
    interrupted_at = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert time.monotonic() - interrupted_at < 20
    assert "run the same command again to resume from the last checkpoint" in said
    assert "all workers are restarted" in said
    assert not any(line.startswith("Traceback") for line in said.splitlines())  # Ray's own stand behind a prefix

    reached = max(entry["step"] for entry in read_journal(both))
    assert reached < STEPS - 20, "it was interrupted too late to show anything"
    process = start([*command, "--num-workers", "1"])
    wait_for_step(both, reached + 5, process)
    os.kill(first_worker(both), signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert main(arguments(data, alone)) == 0
    assert_same_losses(both, alone)


def test_a_group_whose_loader_is_killed_starts_again_and_none_is_left(
    data: Path, tmp_path: Path, ray_cluster: str
) -> None:
    run = tmp_path / "run"
    process = start(arguments(data, run, "--workers", "2", "--ray-address", ray_cluster, "--num-workers", "1"))
    wait_for_step(run, 5, process)
    workers = [psutil.Process(worker) for worker in train_workers()]
    loaders = [child for worker in workers for child in worker.children()]
    assert len(loaders) == 2
    loaders[0].kill()
    _, said = process.communicate(timeout=180)
    assert process.returncode == 0, said
    assert f"a data loading process (process {loaders[0].pid}) was killed by signal 9" in said
    assert "all workers are restarted" in said
    assert not psutil.wait_procs(loaders, timeout=10)[1]


def assert_same_losses(run: Path, other: Path) -> None:
    """Compare two runs of any number of processes, rounding aside. Each loss is that of all parameters before it."""
    ours, theirs = journal(run), journal(other)
    assert [entry["step"] for entry in ours if entry["kind"] == "train"] == list(range(1, STEPS + 1))
    assert [(entry["kind"], entry["step"]) for entry in ours] == [(entry["kind"], entry["step"]) for entry in theirs]
    for mine, others in zip(ours, theirs, strict=True):
        assert mine.keys() == others.keys()
        for name in mine.keys() - {"kind"}:
            assert mine[name] == pytest.approx(others[name], rel=1e-5, abs=1e-6), (name, mine["step"])


def test_a_loss_that_is_no_number_comes_out_as_it_is_and_is_not_tried_again(
    data: Path, tmp_path: Path, ray_cluster: str
) -> None:
    run = tmp_path / "run"
    options = ["--learning-rate", "1e30", "--warmup", "0", "--clip", "0"]
    process = start(arguments(data, run, *options, "--workers", "2", "--ray-address", ray_cluster))
    _, said = process.communicate(timeout=120)
    assert process.returncode == 1, said
    assert "vilbert pretrain: step 1: the loss or a gradient is not finite" in said
    assert "photo." in said
    assert "started again" not in said
    assert not any(line.startswith("Traceback") for line in said.splitlines())  # Ray's own stand behind a prefix


def test_what_can_be_refused_is_refused_before_ray_is_started(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> None:
        pytest.fail("Ray was started")

    monkeypatch.setattr("vilbert.pipeline.train.run.ray_launch.launch", never)
    (tmp_path / "run").mkdir()
    command = arguments(data, tmp_path / "run", "--workers", "2")
    with writing(tmp_path / "run", patience=0):
        assert main(command) == 2
    assert f"process {os.getpid()}" in capsys.readouterr().err


def test_a_node_of_ray_that_dies_ends_the_command_and_leaves_no_process(data: Path, tmp_path: Path) -> None:
    """The Ray is the command's own."""
    run = tmp_path / "run"
    endless = ["--max-steps", "1000000", "--eval-every", "1000000", "--checkpoint-every", "50"]
    process = start(arguments(data, run, *endless, "--workers", "1"))
    processes = []
    try:
        wait_for_step(run, 5, process, seconds=300)
        processes = psutil.Process(process.pid).children(recursive=True)
        [raylet] = [child for child in processes if child.name() == "raylet"]
        raylet.kill()
        _, said = process.communicate(timeout=60)
        assert not psutil.wait_procs(processes, timeout=30)[1]
    finally:
        for left in (*processes, process):
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
    assert process.returncode == 1, said
    assert "Ray's node on this machine has died" in said
    assert "run the same command again to resume" in said
    assert "Traceback" not in said
    assert not (run / "ray").exists()
