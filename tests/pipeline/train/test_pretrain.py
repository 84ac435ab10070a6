"""The whole command on tiny data: it goes on after any kill as if nothing had happened, it refuses, it counts."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipeline.cli import main

from .tiny_runs import MODEL, WITHOUT_DROPOUT, journal, pretrain_arguments

STEPS = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    """Return two data sets, one of each storage, and a model's config beside them."""
    folder = tmp_path_factory.mktemp("data")
    make_dataset(folder / "a", samples=21, shard_size=5, splits=lambda row: "val" if row % 4 == 3 else "train")
    make_dataset(folder / "b", samples=13, shard_size=6, storage="lmdb", seed=1, regions=lambda row: 2 + row % 4)
    (folder / "model.json").write_text(json.dumps(MODEL))
    return folder


def arguments(data: Path, output: Path, *more: str) -> list[str]:
    sets = [data / "a", data / "b"]
    sizes = {"steps": STEPS, "batch_size": 8, "eval_every": 4, "save_every": 2}
    return [*pretrain_arguments(sets, output, data / "model.json", **sizes), *more]


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that nobody stopped."""
    output = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert main(arguments(data, output)) == 0
    return output


def assert_same_run(run: Path, other: Path) -> None:
    """Compare every loss bit for bit, and the parameters that came of it."""
    assert journal(run) == journal(other)
    ours, theirs = (load_file(folder / "final" / "model.safetensors") for folder in (run, other))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


def test_a_run_writes_all_that_it_promises(undisturbed: Path) -> None:
    entries = journal(undisturbed)
    assert [entry["step"] for entry in entries if entry["kind"] == "train"] == list(range(1, STEPS + 1))
    assert [entry["step"] for entry in entries if entry["kind"] == "eval"] == [4, 8]
    for name in ("report.html", "run.json", "final/README.md", "final/config.json", "final/tokenizer.json"):
        assert (undisturbed / name).stat().st_size > 0, name
    kept = sorted(path.name for path in (undisturbed / "checkpoints").iterdir())
    assert kept[-1] == "step-00000008"
    assert 3 <= len(kept) <= 4  # the newest three and the best


def test_it_says_nothing_to_do_when_run_again(data: Path, undisturbed: Path) -> None:
    before = (undisturbed / "metrics.jsonl").read_bytes()
    assert main(arguments(data, undisturbed)) == 0
    assert (undisturbed / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("num_workers", ["0", "2"])
def test_killed_and_resumed_it_is_the_undisturbed_run(
    data: Path, undisturbed: Path, tmp_path: Path, num_workers: str
) -> None:
    """SIGKILL at whatever it is doing, three times, and on with another number of workers."""
    output = tmp_path / "run"
    command = [sys.executable, "-m", "pipeline.cli", *arguments(data, output, "--num-workers", num_workers)]
    for steps in (1, 4, 7):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        wait_for_line(output / "metrics.jsonl", steps, process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert main(arguments(data, output, "--num-workers", num_workers)) == 0
    assert_same_run(output, undisturbed)


def wait_for_line(path: Path, lines: int, process: subprocess.Popen[bytes]) -> None:
    """Wait until the file has so many lines, or the process has ended."""
    while process.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < lines):
        time.sleep(0.005)


def test_interrupted_it_finishes_the_step_and_says_how_to_go_on(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    command = [sys.executable, "-m", "pipeline.cli", *arguments(data, output, "--checkpoint-every", "100")]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    wait_for_line(output / "metrics.jsonl", 2, process)  # type: ignore[arg-type]
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode in (0, 130), said
    if process.returncode == 130:
        assert "run the same command again" in said
        assert list((output / "checkpoints").iterdir())
    assert main(arguments(data, output)) == 0
    assert journal(output) == journal(undisturbed)


def test_accumulation_changes_nothing_but_rounding(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    for parts in ("2", "4", "8"):
        output = tmp_path / parts
        assert main(arguments(data, output, "--grad-accumulation", parts, *no_dropout(tmp_path))) == 0
    losses = [[entry["loss"] for entry in journal(tmp_path / parts)] for parts in ("2", "4", "8")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert losses[0] == pytest.approx(losses[2], rel=1e-5)


def no_dropout(folder: Path) -> list[str]:
    """Return options of a model without dropout, whose masks belong to (seed, step, rank, part)."""
    path = folder / "no_dropout.json"
    path.write_text(json.dumps(WITHOUT_DROPOUT))
    return ["--model", str(path)]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--seed", "3"], "seed 42 before, now 3"),
        (["--learning-rate", "0.02"], "learning_rate"),
        (["--word-mask", "0.3"], "word_mask"),
        (["--max-steps", "9"], "max_steps"),
    ],
)
def test_other_settings_are_refused(
    data: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str], more: list[str], named: str
) -> None:
    assert main(arguments(data, undisturbed, *more)) == 2
    assert named in capsys.readouterr().err


def test_other_data_are_refused(
    data: Path, undisturbed: Path, make_dataset: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(data, tmp_path / "data")
    shutil.rmtree(tmp_path / "data" / "b")
    make_dataset(tmp_path / "data" / "b", samples=13, shard_size=6, storage="lmdb", seed=2)
    assert main(arguments(tmp_path / "data", undisturbed)) == 2
    assert "records_sha256" in capsys.readouterr().err


def test_a_moved_data_set_is_the_same_data(data: Path, undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(data, tmp_path / "moved")
    model = ["--model", str(data / "model.json")]
    assert main(arguments(tmp_path / "moved", undisturbed, *model)) == 0


@pytest.mark.parametrize("policy", ["stop", "skip"])
def test_an_unreadable_shard_in_the_middle(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], policy: str
) -> None:
    shutil.copytree(data, tmp_path / "data")
    shard = tmp_path / "data" / "a" / "shards" / "000002.tar"
    damaged = bytearray(shard.read_bytes())
    damaged[100:140] = b"x" * 40
    shard.write_bytes(damaged)
    output = tmp_path / "run"
    status = main(arguments(tmp_path / "data", output, "--on-corrupt", policy))
    if policy == "stop":
        assert status == 1
        assert "000002.tar" in capsys.readouterr().err
    else:
        assert status == 0
        assert journal(output)[-2]["unread"] > 0


def test_a_loss_that_is_no_number_stops_the_run_naming_the_images(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main(arguments(data, tmp_path / "run", "--learning-rate", "1e30", "--warmup", "0", "--clip", "0"))
    said = capsys.readouterr().err
    assert status == 1
    assert "photo." in said
    assert "step 1" in said


def test_or_leaves_the_step_out_and_counts_it(data: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    options = ["--learning-rate", "1e30", "--warmup", "0", "--clip", "0", "--non-finite", "skip"]
    assert main(arguments(data, output, *options)) == 0
    assert journal(output)[-2]["skipped_steps"] == STEPS - 1


def test_two_processes_are_one(data: Path, tmp_path: Path) -> None:
    """Two gloo processes go on from a checkpoint of one: the same batches, losses to 1e-5."""
    alone, both = tmp_path / "alone", tmp_path / "both"
    options = no_dropout(tmp_path)
    assert main(arguments(data, alone, *options)) == 0
    assert main(arguments(data, both, *options, "--max-steps", str(STEPS))) == 0
    shutil.rmtree(both / "final")
    for path in sorted((both / "checkpoints").iterdir())[1:]:
        shutil.rmtree(path)  # go on from the oldest one kept
    environment = {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29617", "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"
    }  # fmt: skip
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "pipeline.cli", *arguments(data, both, *options)],
            env={**os.environ, **environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    ours, theirs = journal(both), journal(alone)
    assert [entry["step"] for entry in ours] == [entry["step"] for entry in theirs]
    for mine, other in zip(ours, theirs, strict=True):
        for name in mine.keys() - {"kind"}:
            assert mine[name] == pytest.approx(other[name], rel=1e-5), (name, mine, other)
