"""What can go wrong around a run: a full disk, another writer, damaged files, a kill at the very end."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from vilbert.pipeline.cli import main
from vilbert.pipeline.train.run import checkpoint_writer, shared_tokenizer
from vilbert.pipeline.train.run import run as run_module
from vilbert.pipeline.train.run.checkpoints import load_checkpoint, newest_whole, save_checkpoint
from vilbert.pipeline.train.run.folder import ADDED_SETTINGS, writing
from vilbert.pipeline.train.run.journal import Journal, read_journal

from .tiny_runs import journal, pretrain_arguments

pytestmark = pytest.mark.usefixtures("no_curves")

STEPS = 6


@pytest.fixture(scope="module")
def data(fifteen: Path) -> Path:
    """Return a folder with a data set and a model's config beside it."""
    return fifteen


def arguments(data: Path, output: Path, *more: str) -> list[str]:
    sizes = {"steps": STEPS, "batch_size": 4, "eval_every": 3, "save_every": 2}
    return [*pretrain_arguments([data / "a"], output, data / "model.json", **sizes), *more]


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that nothing happened to."""
    output = tmp_path_factory.mktemp("runs") / "undisturbed"
    assert main(arguments(data, output)) == 0
    return output


@pytest.fixture
def finished(undisturbed: Path, tmp_path: Path) -> Path:
    """Return a copy of that run to spoil."""
    return Path(shutil.copytree(undisturbed, tmp_path / "run"))


def back_to(run: Path, step: int) -> None:
    """Make of a finished run one that was killed after the checkpoint of `step`."""
    for path in (run / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > step:
            shutil.rmtree(path)
    shutil.rmtree(run / "final")
    (run / "report.html").unlink()


def assert_same_run(run: Path, other: Path, *, after: int = 0) -> None:
    """Compare what was journalled after a step, bit for bit, and the parameters that came of it."""
    ours, theirs = ([entry for entry in journal(folder) if entry["step"] > after] for folder in (run, other))
    assert ours == theirs
    left, right = (load_file(folder / "final" / "model.safetensors") for folder in (run, other))
    assert all(torch.equal(value, right[name]) for name, value in left.items())
    assert (run / "report.html").is_file()


def on_a_full_disk(call: Callable[..., Any], room: int, *, skip: int = 0) -> Callable[..., Any]:
    """Return `call` as it goes where no file can grow over `room` bytes; its first `skip` calls have all they need."""
    calls = 0

    def limited(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls <= skip:
            return call(*given, **named)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            return call(*given, **named)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return limited


@pytest.mark.parametrize(
    ("owner", "name", "room", "skip", "path", "newest"),
    [
        (Journal, "write", 100, 3, "metrics.jsonl", 2),
        (checkpoint_writer, "save_checkpoint", 5_000, 0, "checkpoints/step-00000002", None),
        (checkpoint_writer, "save_checkpoint", 5_000, 1, "checkpoints/step-00000004", 2),
        (run_module, "export_final", 5_000, 0, "final", STEPS),
        (run_module, "write_report", 5_000, 0, "report.html", STEPS),
        (run_module, "write_run", 50, 0, "run.json", None),
        (shared_tokenizer, "save_tokenizer", 50, 0, "tokenizer", None),
    ],
)
def test_on_a_full_disk_it_names_the_file_and_goes_on_when_there_is_room(
    data: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    owner: Any, name: str, room: int, skip: int, path: str, newest: int | None,
) -> None:  # fmt: skip
    run = tmp_path / "run"
    capsys.readouterr()
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, on_a_full_disk(getattr(owner, name), room, skip=skip))
        assert main(arguments(data, run)) == 1
    said = capsys.readouterr().err
    assert str(run / path) in said
    assert "run the same command again" in said
    found = newest_whole(run)
    assert (None if found is None else found.step) == newest
    assert not list(run.glob(".final*")) + list(run.glob("checkpoints/.*"))
    assert main(arguments(data, run)) == 0
    assert_same_run(run, undisturbed)


def test_a_second_writer_is_refused_naming_the_first(
    data: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in finished.rglob("*"))
    with writing(finished, patience=0):
        assert main(arguments(data, finished)) == 2
    said = capsys.readouterr().err
    assert f"process {os.getpid()}" in said
    assert "or use another folder" in said
    assert sorted(path.name for path in finished.rglob("*")) == before


def test_it_begins_from_a_checkpoint_in_another_folder_and_goes_on_from_its_own(
    data: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    command = arguments(data, run, "--resume", str(undisturbed / "checkpoints" / "step-00000002"))
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "export_final", on_a_full_disk(run_module.export_final, 10))
        assert main(command) == 1
    assert [entry["step"] for entry in read_journal(run) if entry["kind"] == "train"] == [3, 4, 5, 6]
    written = (run / "metrics.jsonl").read_bytes()
    assert main(command) == 0
    assert (run / "metrics.jsonl").read_bytes() == written
    assert_same_run(run, undisturbed, after=2)


def test_an_older_checkpoint_of_the_same_run_is_refused(
    data: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments(data, finished, "--resume", str(finished / "checkpoints" / "step-00000002"))) == 2
    assert f"has continued to step {STEPS}" in capsys.readouterr().err


def test_a_checkpoint_of_another_run_is_refused(
    data: Path, undisturbed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = str(undisturbed / "checkpoints" / "step-00000002")
    assert main(arguments(data, tmp_path / "run", "--resume", checkpoint, "--seed", "3")) == 2
    assert "seed 42 before, now 3" in capsys.readouterr().err
    assert main(arguments(data, tmp_path / "other", "--resume", str(tmp_path / "nowhere"))) == 1
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "info.json", "checkpoint.json"])
def test_a_damaged_newest_checkpoint_gives_way_to_the_one_before(
    data: Path, undisturbed: Path, finished: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    path = finished / "checkpoints" / "step-00000006" / name
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    path.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        assert main(arguments(data, finished)) == 0
    assert "skipped a damaged checkpoint" in caplog.text
    assert name in caplog.text
    assert_same_run(finished, undisturbed)
    newest = newest_whole(finished)
    assert newest is not None
    assert newest.step == STEPS


@pytest.mark.parametrize("content", [b'{"settings": ', b"\xff\xfe", b"[1]"])
def test_a_damaged_run_json_is_written_anew_where_there_is_a_checkpoint(
    data: Path, undisturbed: Path, finished: Path, content: bytes
) -> None:
    (finished / "run.json").write_bytes(content)
    assert main(arguments(data, finished)) == 0
    assert (finished / "run.json").read_bytes() == (undisturbed / "run.json").read_bytes()


def test_a_damaged_run_json_without_a_checkpoint_is_said(
    data: Path, finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (finished / "run.json").write_text('{"settings": ')
    shutil.rmtree(finished / "checkpoints")
    assert main(arguments(data, finished)) == 2
    said = capsys.readouterr().err
    assert f"{finished / 'run.json'}: is damaged (not valid JSON" in said
    assert "Traceback" not in said


KILLED_IN = """
import os, signal, sys
import vilbert.pipeline.train.run.{module} as module
setattr(module, {name!r}, lambda *_: os.kill(os.getpid(), signal.SIGKILL))
from vilbert.pipeline.cli import main
sys.exit(main(sys.argv[1:]))
"""


def run_until_killed(command: list[str], *, module: str, name: str) -> None:
    """Run a command that kills its process where it would call a function."""
    code = KILLED_IN.format(module=module, name=name)
    done = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True, timeout=120)
    assert done.returncode == -signal.SIGKILL, done.stderr


@pytest.mark.slow
def test_killed_while_the_model_is_exported_it_leaves_no_half_of_it(
    data: Path, undisturbed: Path, finished: Path
) -> None:
    back_to(finished, STEPS)
    run_until_killed(arguments(data, finished), module="export", name="sync_folder")
    assert not (finished / "final").exists()
    assert len(list(finished.glob(".final.*"))) == 1
    assert main(arguments(data, finished)) == 0
    assert not list(finished.glob(".final.*"))
    assert_same_run(finished, undisturbed)


@pytest.mark.slow
def test_killed_while_the_tokenizer_is_written_another_one_may_be_asked_for(
    data: Path, undisturbed: Path, tmp_path: Path
) -> None:
    """The vocabulary of a start that came to nothing must not stay behind under another name."""
    run = tmp_path / "run"
    run_until_killed(arguments(data, run), module="shared_tokenizer", name="sync_folder")
    assert not (run / "tokenizer").exists()
    assert (run / ".tokenizer.tmp").is_dir()
    (run / ".tokenizer.tmp" / "left.json").write_text("{}")
    assert main(arguments(data, run)) == 0
    assert not (run / "tokenizer" / "left.json").exists()
    assert_same_run(run, undisturbed)


def test_a_start_that_was_refused_leaves_no_tokenizer_for_the_next(
    data: Path, undisturbed: Path, tmp_path: Path, make_dataset: Callable[..., Path]
) -> None:
    other = make_dataset(tmp_path / "b", samples=9, shard_size=5, captions=lambda row: [f"{'xyz'[row % 3]} words"])
    run = tmp_path / "run"
    run.mkdir()  # one that the start makes, it removes again
    refused = ["pretrain", str(other), *arguments(data, run)[2:], "--eval-split", "none", "--max-tokens", "41"]
    assert main(refused) == 2
    assert (run / "tokenizer").is_dir()
    assert main(arguments(data, run)) == 0
    assert_same_run(run, undisturbed)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_a_tokenizer_folder_that_lost_a_file_is_made_anew(
    data: Path, undisturbed: Path, finished: Path, name: str
) -> None:
    back_to(finished, 4)
    whole = (finished / "tokenizer" / name).read_bytes()
    (finished / "tokenizer" / name).unlink()
    assert main(arguments(data, finished)) == 0
    assert (finished / "tokenizer" / name).read_bytes() == whole
    assert_same_run(finished, undisturbed)


def test_a_run_that_an_older_version_began_is_resumed_and_one_of_another_optimizer_refused(
    finished: Path, undisturbed: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    back_to(finished, 4)
    for path in (finished / "checkpoints").iterdir():
        checkpoint, model, optimizer = load_checkpoint(path)
        settings = checkpoint.info["run"]["settings"]
        for name in ADDED_SETTINGS:
            del settings[name]
        save_checkpoint(finished, checkpoint.step, model=model, optimizer=optimizer, info=checkpoint.info)
    assert main(arguments(data, finished, "--optim", "muon")) == 2
    assert 'optim "adamw" before, now "muon"' in capsys.readouterr().err
    assert main(arguments(data, finished)) == 0
    assert_same_run(finished, undisturbed, after=4)
