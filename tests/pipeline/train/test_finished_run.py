"""A run that is finished, one that is made longer, and one that failed before it learnt anything."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vilbert.pipeline.cli import main
from vilbert.pipeline.shards.location.lock import LOCK_FILE
from vilbert.pipeline.train.run.journal import read_journal

from .tiny_runs import WITHOUT_DROPOUT, model_option, pretrain_arguments

pytestmark = pytest.mark.usefixtures("no_curves")

STEPS = 4


@pytest.fixture(scope="module")
def data(fifteen: Path) -> Path:
    """Return a folder with a data set and a model's config beside it."""
    return fifteen


def arguments(data: Path, output: Path, *more: str, steps: int = STEPS) -> list[str]:
    sizes = {"steps": steps, "batch_size": 4, "eval_every": 2, "save_every": 2}
    return [*pretrain_arguments([data / "a"], output, data / "model.json", **sizes), *more]


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a finished run; not to be changed."""
    output = tmp_path_factory.mktemp("runs") / "finished"
    assert main(arguments(data, output)) == 0
    return output


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of that run to go on with."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def content(run: Path) -> dict[str, bytes]:
    paths = [path for path in sorted(run.rglob("*")) if path.is_file() and path.name != LOCK_FILE]
    return {str(path.relative_to(run)): path.read_bytes() for path in paths}


def test_run_again_it_has_nothing_to_do_and_changes_nothing(
    data: Path, copied: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(copied)
    with caplog.at_level(logging.INFO):
        assert main(arguments(data, copied)) == 0
    assert f"nothing to do: {copied} has all {STEPS} steps" in caplog.text
    assert "nan" not in capsys.readouterr().err
    assert content(copied) == before


@pytest.mark.parametrize("name", ["final/model.safetensors", "final/config.json", "report.html"])
def test_what_is_missing_of_a_finished_run_is_made_again(data: Path, finished: Path, copied: Path, name: str) -> None:
    (copied / name).unlink()
    assert main(arguments(data, copied)) == 0
    assert (copied / name).is_file()
    ours, theirs = (load_file(run / "final" / "model.safetensors") for run in (copied, finished))
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())


@pytest.fixture
def read_only(copied: Path) -> Iterator[Path]:
    """Return a finished run on a disk that may only be read."""
    for options in (["-o", "bind", copied], ["-o", "remount,ro,bind"]):
        if subprocess.run(["mount", *options, copied], capture_output=True, check=False).returncode:
            pytest.skip("this user may not mount")
    yield copied
    subprocess.run(["umount", "-l", copied], check=True)


def test_on_a_read_only_disk_a_finished_run_has_nothing_to_do(
    data: Path, read_only: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert main(arguments(data, read_only)) == 0
    assert "nothing to do" in caplog.text


def test_on_a_read_only_disk_a_run_that_would_go_on_is_refused(
    data: Path, read_only: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(data, read_only, "--schedule", "linear", steps=2 * STEPS)) == 2
    assert main(arguments(data, read_only.parent / "run", "--seed", "3")) == 2
    assert "Traceback" not in capsys.readouterr().err


CONSTANT = ["--schedule", "constant", "--warmup", "0"]


def test_with_a_constant_schedule_a_finished_run_is_made_longer_as_if_it_had_been_so_long(
    data: Path, tmp_path: Path
) -> None:
    short, long = tmp_path / "short", tmp_path / "long"
    assert main(arguments(data, short, *CONSTANT)) == 0
    assert main(arguments(data, short, *CONSTANT, steps=2 * STEPS)) == 0
    assert main(arguments(data, long, *CONSTANT, steps=2 * STEPS)) == 0
    train = [
        [(entry["step"], entry["loss"]) for entry in read_journal(run) if entry["kind"] == "train"]
        for run in (short, long)
    ]
    assert train[0] == train[1]
    assert [step for step, _ in train[0]] == list(range(1, 2 * STEPS + 1))
    ours, theirs = (load_file(run / "final" / "model.safetensors") for run in (short, long))
    assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    assert json.loads((short / "run.json").read_text())["settings"]["max_steps"] == 2 * STEPS


def test_a_run_is_made_longer_by_epochs(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [word for word in arguments(data, run, *CONSTANT) if word not in ("--max-steps", str(STEPS))]
    command[command.index("--batch-size") + 1 : command.index("--batch-size") + 1] = [] if "4" in command else ["4"]
    assert main([*command, "--epochs", "1"]) == 0
    assert main([*command, "--epochs", "2"]) == 0
    assert [entry["step"] for entry in read_journal(run) if entry["kind"] == "train"] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("more", "steps", "said"),
    [
        ([], 8, "on which its linear schedule depends: with 8 steps, step 4 has"),
        (CONSTANT, 3, "3 are fewer, and only more can be added"),
    ],
)
def test_where_it_cannot_be_made_longer_it_says_why_and_what_to_do(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], steps: int, said: str
) -> None:
    run = tmp_path / "run"
    assert main(arguments(data, run, *more)) == 0
    before = content(run)
    capsys.readouterr()
    assert main(arguments(data, run, *more, steps=steps)) == 2
    message = capsys.readouterr().err
    assert f"was planned for {STEPS} steps" in message
    assert said in message
    assert f"--init-from {run / 'final'} --output NEW" in message
    assert content(run) == before


@pytest.mark.parametrize(
    "options",
    [
        ["--init-from", "nowhere/model.safetensors"],
        ["--split", "no-such-split"],
        ["--max-tokens", "4000"],
        ["--model", "no-such-model"],
        ["--learning-rate", "1e30", "--warmup", "0", "--clip", "0"],  # the second step has no finite loss
    ],
)
def test_a_run_that_fails_before_it_learns_leaves_no_folder(data: Path, tmp_path: Path, options: list[str]) -> None:
    run = tmp_path / "runs" / "one" / "base"
    more = ["--log-every", "100", "--checkpoint-every", "100"]
    assert main(arguments(data, run, *more, *options)) in (1, 2)
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_was_there_before_a_failed_run_stays(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "base"
    run.mkdir()
    assert main(arguments(data, run, "--init-from", "nowhere/model.safetensors")) == 2
    assert run.is_dir()


def test_a_damaged_shard_before_the_first_step_leaves_no_folder(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoilt = Path(shutil.copytree(data, tmp_path / "data"))
    for shard in (spoilt / "a" / "shards").glob("*.tar"):
        shard.write_bytes(shard.read_bytes()[:700])
    run = tmp_path / "run"
    assert main(arguments(spoilt, run, "--num-workers", "1")) == 1
    assert ".tar" in capsys.readouterr().err
    assert not run.exists()


def test_an_evaluation_leaves_out_what_it_did_not_measure(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    options = ["--region-mask", "0", "--objective", "2", *model_option(tmp_path / "model.json", WITHOUT_DROPOUT)]
    assert main(arguments(data, run, *options)) == 0
    figures: dict[str, Any] = json.loads((run / "evaluation.json").read_text())["figures"]
    assert set(figures) == {"masked_lm_loss", "loss", "masked_lm_accuracy", "unread"}
    entry = [entry for entry in read_journal(run) if entry["kind"] == "eval"][-1]
    assert set(entry) == {"kind", "step", *figures}
