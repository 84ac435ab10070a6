"""Runs of the whole command in processes of their own: killed, interrupted, and several that train as one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import torch
from safetensors.torch import load_file

from vilbert.pipeline.cli import main

from .forks import Forks, forking, wait_for_lines
from .tiny_runs import WITHOUT_DROPOUT, arguments, journal, model_option, two_sets

pytestmark = pytest.mark.usefixtures("no_curves")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    """Return the folder of two data sets and a model's config."""
    return two_sets(tmp_path_factory.mktemp("data"), make_dataset)


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that nobody stopped."""
    output = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert main(arguments(data, output)) == 0
    return output


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with forking() as source:
        yield source


def assert_same_run(run: Path, other: Path) -> None:
    """Compare every loss bit for bit, and the parameters that came of it."""
    assert journal(run) == journal(other)
    ours, theirs = (load_file(folder / "final" / "model.safetensors") for folder in (run, other))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize(
    ("num_workers", "kills"),
    [
        ("2", (4,)),
        pytest.param("2", (1, 4, 7), marks=pytest.mark.slow),
        pytest.param("0", (1, 4, 7), marks=pytest.mark.slow),
    ],
)
def test_killed_and_resumed_it_is_the_undisturbed_run(
    data: Path, undisturbed: Path, tmp_path: Path, forks: Forks, num_workers: str, kills: tuple[int, ...]
) -> None:
    """SIGKILL after so many steps, at whatever it is doing; it resumes with the same number of workers."""
    output, log = tmp_path / "run", tmp_path / "log"
    command = arguments(data, output, "--num-workers", num_workers)
    for steps in kills:
        process = forks.start(command, log)
        wait_for_lines(output / "metrics.jsonl", steps, log)
        os.kill(process, signal.SIGKILL)
        assert forks.wait(process) == -signal.SIGKILL
    assert main(command) == 0
    assert_same_run(output, undisturbed)


@pytest.mark.parametrize(
    ("number", "num_workers"),
    [
        pytest.param(signal.SIGINT, 0, marks=pytest.mark.slow),
        (signal.SIGTERM, 2),
        pytest.param(signal.SIGINT, 2, marks=pytest.mark.slow),
    ],
)
def test_interrupted_it_finishes_the_step_and_says_how_to_go_on(
    data: Path, undisturbed: Path, tmp_path: Path, forks: Forks, number: signal.Signals, num_workers: int
) -> None:
    """The signal goes to the whole process group, as from a terminal or a batch system, workers included."""
    output, log, sent = tmp_path / "run", tmp_path / "log", tmp_path / "sent"
    command = arguments(data, output, "--checkpoint-every", "100", "--num-workers", str(num_workers))
    process = forks.start(command, log, pause=(2, sent))
    wait_for_lines(output / "metrics.jsonl", 2, log)
    workers = psutil.Process(process).children()
    assert len(workers) == num_workers
    os.killpg(process, number)
    sent.touch()
    assert forks.wait(process) == 130, log.read_text()
    assert "interrupted after step 3 of 8; run the same command again" in log.read_text()
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step-00000003"]
    assert not psutil.wait_procs(workers, timeout=10)[1]
    assert main(arguments(data, output)) == 0
    assert_same_run(output, undisturbed)


def loaders(process: int) -> list[psutil.Process]:
    """Return the data loading processes of a training process: its only children."""
    return psutil.Process(process).children()


def all_end(processes: Iterable[psutil.Process], *, seconds: float = 10) -> bool:
    return not psutil.wait_procs(list(processes), timeout=seconds)[1]


def test_a_killed_loader_ends_the_run_with_a_message_and_the_run_resumes(
    data: Path, undisturbed: Path, tmp_path: Path, forks: Forks
) -> None:
    output, log, never = tmp_path / "run", tmp_path / "log", tmp_path / "never"
    command = arguments(data, output, "--num-workers", "2")
    process = forks.start(command, log, pause=(1, never))
    wait_for_lines(output / "metrics.jsonl", 1, log)
    first, second = loaders(process)
    first.kill()
    never.touch()
    assert forks.wait(process) == 1, log.read_text()
    assert f"a data loading process (process {first.pid}) was killed by signal 9" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert all_end([first, second])
    assert main(command) == 0
    assert_same_run(output, undisturbed)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("OutOfMemoryError", "out of memory on the GPU (as the test wants it). Give a larger --grad-accumulation"),
        ("RuntimeError", "RuntimeError: as the test wants it"),  # of which nothing is known: a traceback
    ],
)
def test_an_exception_in_a_step_ends_the_run_and_its_loaders(
    data: Path, tmp_path: Path, forks: Forks, error: str, said: str
) -> None:
    log, begun = tmp_path / "log", time.monotonic()
    process = forks.start(arguments(data, tmp_path / "run", "--num-workers", "2"), log, fail=(0, 3, error))
    wait_for_lines(tmp_path / "run" / "metrics.jsonl", 2, log)
    children = loaders(process)
    assert forks.wait(process) == 1
    assert time.monotonic() - begun < 50
    assert said in log.read_text()
    assert ("Traceback" in log.read_text()) == (error == "RuntimeError")
    assert all_end(children)


def test_a_killed_loader_of_one_rank_ends_both_ranks(data: Path, tmp_path: Path, forks: Forks) -> None:
    output, log = tmp_path / "run", tmp_path / "log"
    command = arguments(data, output, "--num-workers", "1", "--max-steps", "100000")
    ranks = forks.start_ranks(command, log, world=2)
    wait_for_lines(output / "metrics.jsonl", 2, log)
    children = [child for rank in ranks for child in loaders(rank)]
    assert len(children) == 2
    begun = time.monotonic()
    loaders(ranks[1])[0].kill()
    assert [forks.wait(rank) for rank in ranks] == [1, 1], log.read_text()
    assert time.monotonic() - begun < 30
    assert "was killed by signal 9 (SIGKILL); is the machine out of memory?" in log.read_text()
    assert "training process 1 failed: a data loading process" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert all_end(children)


@pytest.mark.parametrize("rank", [0, 1])
def test_an_exception_in_one_rank_ends_both(data: Path, tmp_path: Path, forks: Forks, rank: int) -> None:
    log, begun = tmp_path / "log", time.monotonic()
    command = arguments(data, tmp_path / "run", "--num-workers", "1")
    ranks = forks.start_ranks(command, log, world=2, fail=(rank, 3, "OutOfMemoryError"))
    assert [forks.wait(process) for process in ranks] == [1, 1], log.read_text()
    assert time.monotonic() - begun < 50
    assert "out of memory on the GPU" in log.read_text()
    assert f"training process {rank} failed: out of memory on the GPU" in log.read_text()


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_ends_the_other_and_all_loaders(
    data: Path, tmp_path: Path, forks: Forks, rank: int
) -> None:
    output, log = tmp_path / "run", tmp_path / "log"
    ranks = forks.start_ranks(arguments(data, output, "--num-workers", "1", "--max-steps", "100000"), log, world=2)
    wait_for_lines(output / "metrics.jsonl", 2, log)
    children = [child for process in ranks for child in loaders(process)]
    os.kill(ranks[rank], signal.SIGKILL)
    assert forks.wait(ranks[rank]) == -signal.SIGKILL
    assert forks.wait(ranks[1 - rank]) == 1, log.read_text()
    assert "another training process is lost" in log.read_text()
    assert all_end(children)


def test_a_rank_that_is_refused_before_its_first_step_ends_both(data: Path, tmp_path: Path, forks: Forks) -> None:
    """The other one waits for it in native code."""
    log = tmp_path / "log"
    command = arguments(data, tmp_path / "run")
    waiting, refused = forks.start_ranks(command, log, world=2, refused=1)
    assert forks.wait(refused) == 2, log.read_text()
    assert forks.wait(waiting) == 1, log.read_text()
    assert "training process 1 failed: " in log.read_text()


@pytest.mark.slow
def test_torchrun_ends_all_where_a_loader_of_one_rank_is_killed(data: Path, tmp_path: Path) -> None:
    command = arguments(data, tmp_path / "run", "--num-workers", "1", "--max-steps", "100000")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    with (tmp_path / "log").open("wb") as log:
        process = psutil.Popen([*torchrun, "-m", "vilbert.pipeline.cli", *command], stdout=log, stderr=log)
        wait_for_lines(tmp_path / "run" / "metrics.jsonl", 2, tmp_path / "log", seconds=240)
        ranks = process.children()
        children = [child for rank in ranks for child in rank.children()]
        assert len(children) == 2
        children[1].kill()
        assert process.wait(timeout=60) == 1
    assert all_end([*ranks, *children])
    assert (
        f"a data loading process (process {children[1].pid}) was killed by signal 9" in (tmp_path / "log").read_text()
    )


def assert_losses_of(run: Path, other: Path) -> None:
    """Compare what two runs wrote down, every number to 1e-5."""
    ours, theirs = journal(run), journal(other)
    assert [entry["step"] for entry in ours] == [entry["step"] for entry in theirs]
    for mine, its in zip(ours, theirs, strict=True):
        for name in mine.keys() - {"kind"}:
            assert mine[name] == pytest.approx(its[name], rel=1e-5), (name, mine, its)


def test_a_run_is_resumed_by_two_processes_and_by_one_again(data: Path, tmp_path: Path, forks: Forks) -> None:
    """Two gloo processes go on from a checkpoint of one, and one from theirs: the same batches, losses to 1e-5."""
    alone, both = tmp_path / "alone", tmp_path / "both"
    options = model_option(tmp_path / "model.json", WITHOUT_DROPOUT)
    for output in (alone, both):
        assert main(arguments(data, output, *options)) == 0
    shutil.rmtree(both / "final")
    for path in sorted((both / "checkpoints").iterdir())[1:]:
        shutil.rmtree(path)  # go on from the oldest one kept
    log = tmp_path / "log"
    assert forks.run_ranks(arguments(data, both, *options), log, world=2) == [0, 0], log.read_text()
    assert_losses_of(both, alone)
    shutil.rmtree(both / "checkpoints" / "step-00000008")  # go on from a step that two processes made
    assert main(arguments(data, both, *options)) == 0
    assert_losses_of(both, alone)


@pytest.mark.slow
def test_torchrun_resumes_on_more_and_on_fewer_processes(data: Path, tmp_path: Path) -> None:
    """Steps 1 to 3 by one process, 4 to 6 by two with a loader each, 7 and 8 by one: losses to 1e-5 of one's."""
    options = [*model_option(tmp_path / "model.json", WITHOUT_DROPOUT), "--schedule", "constant", "--warmup", "0"]
    assert main(arguments(data, tmp_path / "alone", *options)) == 0
    for world, steps, workers in ((1, "3", "0"), (2, "6", "1"), (1, "8", "2")):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(world)]
        command = arguments(data, tmp_path / "run", *options, "--max-steps", steps, "--num-workers", workers)
        done = subprocess.run(
            [*torchrun, "-m", "vilbert.pipeline.cli", *command], capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr
    sessions = [json.loads(line) for line in (tmp_path / "run" / "sessions.jsonl").read_text().splitlines()]
    assert [session["processes"] for session in sessions if "processes" in session] == [1, 2, 1]
    ours, theirs = (
        [entry for entry in journal(tmp_path / name) if entry["kind"] == "train"] for name in ("run", "alone")
    )
    assert [entry["step"] for entry in ours] == [entry["step"] for entry in theirs] == list(range(1, 9))
    for mine, its in zip(ours, theirs, strict=True):
        assert mine["loss"] == pytest.approx(its["loss"], rel=1e-5), (mine, its)


@pytest.mark.parametrize("changes", [{"with_coattention": False}, {"visual_target": 2, "num_negative": 8}])
@pytest.mark.slow
def test_two_processes_of_another_model(data: Path, tmp_path: Path, forks: Forks, changes: dict[str, object]) -> None:
    """Layers that nothing reads have no gradient to be shared; negatives are drawn by each process for itself."""
    options = [*model_option(tmp_path / "model.json", {**WITHOUT_DROPOUT, **changes}), "--max-steps", "3"]
    alone, both, log = tmp_path / "alone", tmp_path / "both", tmp_path / "log"
    assert main(arguments(data, alone, *options)) == 0
    assert forks.run_ranks(arguments(data, both, *options), log, world=2) == [0, 0], log.read_text()
    losses = ("masked_lm_loss", "alignment_loss", *(() if "visual_target" in changes else ("masked_image_loss",)))
    found, wanted = (
        np.array([[entry[name] for name in losses] for entry in journal(folder)]) for folder in (both, alone)
    )
    assert len(found) == 4
    assert all(np.isfinite(entry["loss"]) for entry in journal(both))
    # Other negatives, another gradient: only the first step begins from the same parameters.
    steps = 1 if "visual_target" in changes else len(found)
    np.testing.assert_allclose(found[:steps], wanted[:steps], rtol=1e-5)
