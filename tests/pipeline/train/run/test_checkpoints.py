"""Checkpoints under faults: killed at every step of the file system, a full disk, damage; and training on from one."""

from __future__ import annotations

import errno
import io
import itertools
import json
import logging
import math
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from vilbert.pipeline.errors import UnsupportedFormatError
from vilbert.pipeline.shards.storage.atomic import HashingFile
from vilbert.pipeline.train.run.checkpoint_manifest import FILES, MANIFEST, CheckpointError, write_manifest
from vilbert.pipeline.train.run.checkpoints import (
    checkpoints,
    load_checkpoint,
    newest_whole,
    prune,
    save_checkpoint,
    sweep,
)

KILLED = 9
# What changes the file system; pathlib and shutil call these too.
CALLS = ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync", "open")


def tensors(value: float) -> dict[str, Tensor]:
    return {"a.weight": torch.full((3, 2), value), "a.bias": torch.full((2,), value)}


def save(run: Path, step: int, value: float) -> Path:
    return save_checkpoint(
        run,
        step,
        model=tensors(value),
        optimizer={"a.weight/exp_avg": torch.full((3, 2), value)},
        info={"value": value},
    )


def value_of(path: Path) -> float:
    """Return what a checkpoint was saved with, after loading all of it."""
    checkpoint, model, optimizer = load_checkpoint(path)
    values = {
        checkpoint.info["value"],
        *(v for t in (*model.values(), *optimizer.values()) for v in t.flatten().tolist()),
    }
    assert len(values) == 1, values
    return float(values.pop())


def steps(run: Path) -> list[int]:
    return [checkpoint.step for checkpoint in checkpoints(run)]


def temporaries(run: Path) -> list[str]:
    return [path.name for path in (run / "checkpoints").iterdir() if path.name.startswith(".")]


def intercept(monkeypatch: pytest.MonkeyPatch, before: Callable[[str], None]) -> None:
    """Call `before` with its name ahead of whatever changes the file system; a write is interrupted in its middle."""

    def wrap(module: Any, name: str) -> None:
        original = getattr(module, name)

        def call(*arguments: Any, **named: Any) -> Any:
            before(name)
            return original(*arguments, **named)

        monkeypatch.setattr(module, name, call)

    for name in CALLS:
        wrap(os, name)
    wrap(io, "open")
    write = HashingFile.write

    def half_then_all(file: HashingFile, data: bytes) -> None:
        file._file.write(data[: len(data) // 2])
        file._file.flush()
        before("write")
        file._file.seek(-(len(data) // 2), os.SEEK_CUR)
        write(file, data)

    monkeypatch.setattr(HashingFile, "write", half_then_all)


def count_calls(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> list[str]:
    """Return the file-system calls of an action, in order."""
    calls: list[str] = []
    with monkeypatch.context() as patch:
        intercept(patch, calls.append)
        action()
    return calls


def die_at(monkeypatch: pytest.MonkeyPatch, number: int, action: Callable[[], object]) -> int:
    """Do an action in a child process that is gone, without a word, at its file-system call `number`."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    left = number

    def before(_name: str) -> None:
        nonlocal left
        if left == 0:
            os._exit(KILLED)
        left -= 1

    try:
        intercept(monkeypatch, before)
        action()
        os._exit(0)
    finally:
        os._exit(1)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Return a run with checkpoints of steps 10 and 20, of the values 1 and 2."""
    save(tmp_path, 10, 1.0)
    save(tmp_path, 20, 2.0)
    return tmp_path


def again(run: Path, copy: Path) -> Path:
    """Return a fresh copy of a run."""
    shutil.rmtree(copy, ignore_errors=True)
    return Path(shutil.copytree(run, copy))


@pytest.mark.parametrize("step", [20, 30], ids=["over an older one of its step", "of a new step"])
def test_killed_anywhere_in_a_save_the_run_has_a_whole_checkpoint(
    run: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    copy = tmp_path_factory.mktemp("killed") / "run"
    fresh = again(run, copy)
    calls = count_calls(monkeypatch, lambda: save(fresh, step, 3.0))
    assert {"write", "fsync", "rename", "mkdir"} <= set(calls)
    seen = set()
    for number in range(len(calls)):
        killed = again(run, copy)
        assert die_at(monkeypatch, number, partial(save, killed, step, 3.0)) == KILLED
        newest = newest_whole(killed)  # before anything is swept
        assert newest is not None
        value = value_of(newest.path)
        assert (newest.step, value) in {(20, 2.0), (step, 3.0)}
        assert value_of(checkpoints(killed)[0].path) == 1.0
        seen.add(value)
        sweep(killed)
        assert not temporaries(killed)
        swept = newest_whole(killed)
        assert swept is not None
        assert (swept.path.name, value_of(swept.path)) == (f"step-{newest.step:08d}", value)
        save(killed, step, 4.0)
        assert steps(killed) == sorted({10, 20, step})
        assert value_of(checkpoints(killed)[-1].path) == 4.0
    assert seen == {2.0, 3.0}


@pytest.mark.slow
def test_killed_anywhere_in_a_save_the_next_save_needs_no_sweep(
    run: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path_factory.mktemp("killed") / "run"
    fresh = again(run, copy)
    for number in range(len(count_calls(monkeypatch, lambda: save(fresh, 20, 3.0)))):
        killed = again(run, copy)
        die_at(monkeypatch, number, partial(save, killed, 20, 3.0))
        save(killed, 20, 4.0)
        assert steps(killed) == [10, 20]
        assert value_of(checkpoints(killed)[-1].path) == 4.0
        assert [path.name for path in (killed / "checkpoints").glob("step-*20*")] == ["step-00000020"]


def test_killed_in_the_first_save_leaves_none_or_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(len(count_calls(monkeypatch, lambda: save(tmp_path / "all", 10, 1.0)))):
        killed = tmp_path / str(number)
        assert die_at(monkeypatch, number, partial(save, killed, 10, 1.0)) == KILLED
        newest = newest_whole(killed)
        assert newest is None or value_of(newest.path) == 1.0
        sweep(killed)
        save(killed, 10, 2.0)
        assert [value_of(checkpoint.path) for checkpoint in checkpoints(killed)] == [2.0]


def test_killed_anywhere_in_a_prune_only_whole_ones_are_listed(
    run: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path_factory.mktemp("killed") / "run"
    fresh = again(run, copy)
    calls = count_calls(monkeypatch, lambda: prune(fresh, keep=1, best=None))
    assert {"rename", "unlink", "rmdir"} <= set(calls)
    for number in range(len(calls)):
        killed = again(run, copy)
        assert die_at(monkeypatch, number, partial(prune, killed, keep=1, best=None)) == KILLED
        found = checkpoints(killed)
        assert [value_of(checkpoint.path) for checkpoint in found] in ([1.0, 2.0], [2.0])
        assert len(list((killed / "checkpoints").glob("step-*"))) == len(found)
        sweep(killed)
        assert not temporaries(killed)


def fail_from(call: str, number: int, *, once: bool) -> Callable[[str], None]:
    """Return what refuses the calls of a name from one on, or that one alone, as a full disk does."""
    numbers = itertools.count()

    def before(name: str) -> None:
        if name == call and ((at := next(numbers)) == number or (at > number and not once)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    return before


@pytest.mark.parametrize("step", [20, 30])
@pytest.mark.parametrize("call", ["write", "fsync", "mkdir", "rename"])
def test_a_full_disk_is_said_and_leaves_what_was_there(
    run: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch, step: int, call: str
) -> None:
    copy = tmp_path_factory.mktemp("full") / "run"
    fresh = again(run, copy)
    total = count_calls(monkeypatch, lambda: save(fresh, step, 3.0)).count(call)
    assert total
    for number in range(total):
        full = again(run, copy)
        with monkeypatch.context() as patch:
            intercept(patch, fail_from(call, number, once=call == "rename"))
            with pytest.raises(OSError, match="earlier ones are unchanged") as caught:
                save(full, step, 3.0)
        assert caught.value.errno == errno.ENOSPC
        assert "--keep" in str(caught.value)
        assert str(full / "checkpoints" / f"step-{step:08d}") in str(caught.value)
        assert not temporaries(full)
        newest = newest_whole(full)
        assert newest is not None
        assert value_of(newest.path) == 2.0 or call in ("fsync", "rename")
        assert value_of(checkpoints(full)[0].path) == 1.0
        save(full, step, 4.0)
        assert value_of(checkpoints(full)[-1].path) == 4.0
        assert steps(full) == sorted({10, 20, step})


def test_an_interrupt_in_the_middle_leaves_nothing_behind(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(name: str) -> None:
        if name == "write":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        intercept(patch, interrupt)
        with pytest.raises(KeyboardInterrupt):
            save(run, 30, 3.0)
    assert not temporaries(run)
    assert steps(run) == [10, 20]


def test_every_file_and_folder_is_synced_before_the_rename(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = count_calls(monkeypatch, lambda: save(run, 30, 3.0))
    rename = calls.index("rename")
    assert calls[:rename].count("fsync") == len(FILES) + 1 + 2  # files, checkpoint.json, the run's folder and its own
    assert "fsync" in calls[rename:]
    assert "write" not in calls[rename:]


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_flipped_bit_anywhere_falls_back_with_a_warning(
    run: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    path = run / "checkpoints" / "step-00000020" / name
    content = path.read_bytes()
    for place in range(0, len(content), 7 if name.endswith(".safetensors") else 1):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            newest = newest_whole(run)
        assert newest is not None
        assert newest.step == 10, place
        assert f"{path.parent}" in caplog.text
    with pytest.raises(CheckpointError, match="resume from an older checkpoint"):
        load_checkpoint(path.parent)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
@pytest.mark.parametrize("length", [0, -1])
def test_a_file_cut_short_is_left_out(run: Path, name: str, length: int) -> None:
    path = run / "checkpoints" / "step-00000020" / name
    path.write_bytes(path.read_bytes()[:length])
    assert steps(run) == [10]
    newest = newest_whole(run)
    assert newest is not None
    assert newest.step == 10


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_missing_file_is_named(run: Path, name: str) -> None:
    folder = run / "checkpoints" / "step-00000020"
    (folder / name).unlink()
    assert steps(run) == [10]
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(folder)


def test_other_files_do_no_harm(run: Path) -> None:
    (run / "checkpoints" / "step-00000020" / "note.txt").write_text("mine")
    (run / "checkpoints" / "step-best").mkdir()
    (run / "checkpoints" / "README").write_text("mine")
    assert steps(run) == [10, 20]
    sweep(run)
    prune(run, keep=1, best=None)
    assert (run / "checkpoints" / "README").exists()
    assert value_of(checkpoints(run)[-1].path) == 2.0


def test_a_folder_under_the_name_of_another_step_is_left_out(run: Path) -> None:
    shutil.copytree(run / "checkpoints" / "step-00000020", run / "checkpoints" / "step-00000099")
    assert steps(run) == [10, 20]
    newest = newest_whole(run)
    assert newest is not None
    assert newest.step == 20


def test_a_checkpoint_elsewhere_under_any_name_loads(run: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "mine"
    shutil.copytree(run / "checkpoints" / "step-00000020", elsewhere)
    assert value_of(elsewhere) == 2.0


def test_a_path_that_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_checkpoint(tmp_path / "nowhere")


def test_a_newer_format_stops_rather_than_falls_back(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = run / "checkpoints" / "step-00000020"
    files = json.loads((folder / MANIFEST).read_bytes())["files"]
    (folder / MANIFEST).unlink()
    with monkeypatch.context() as patch:
        patch.setattr("vilbert.pipeline.train.run.checkpoint_manifest.FORMAT", 2)
        write_manifest(folder, 20, files)
    for call in (lambda: newest_whole(run), lambda: checkpoints(run), lambda: load_checkpoint(folder)):
        with pytest.raises(UnsupportedFormatError, match="format 2"):
            call()


def test_no_checkpoints_are_none(tmp_path: Path) -> None:
    assert checkpoints(tmp_path) == []
    assert newest_whole(tmp_path) is None
    assert sweep(tmp_path) == []


def test_prune_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    for step in (10, 20, 30, 40, 50):
        save(tmp_path, step, float(step))
    prune(tmp_path, keep=2, best=20)
    assert steps(tmp_path) == [20, 40, 50]
    assert not temporaries(tmp_path)
    prune(tmp_path, keep=2, best=50)
    assert steps(tmp_path) == [40, 50]


def test_prune_does_not_count_damaged_ones(run: Path) -> None:
    save(run, 30, 3.0)
    (run / "checkpoints" / "step-00000030" / MANIFEST).unlink()
    prune(run, keep=1, best=None)
    assert steps(run) == [20]
    assert (run / "checkpoints" / "step-00000030").exists()


def test_prune_refuses_to_keep_none(run: Path) -> None:
    with pytest.raises(ValueError, match="keep 0"):
        prune(run, keep=0, best=None)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_info_that_is_not_json_is_refused_before_anything_is_written(tmp_path: Path, value: float) -> None:
    with pytest.raises(ValueError, match=r"step-00000010.*use null"):
        save_checkpoint(tmp_path, 10, model={}, optimizer={}, info={"loss": value})
    assert not (tmp_path / "checkpoints").exists()


def test_info_comes_back_as_it_was(tmp_path: Path) -> None:
    info = {"loss": None, "seed": 2**63, "names": ["Zoë", "b"], "rate": 0.1, "nested": {"flag": True, "n": 1e-300}}
    save_checkpoint(tmp_path, 10, model={}, optimizer={}, info=info)
    (checkpoint,) = checkpoints(tmp_path)
    assert checkpoint.info == info
    assert checkpoint.read_tensors() == ({}, {})


def test_weights_are_a_plain_safetensors_file(run: Path) -> None:
    weights = load_file(run / "checkpoints" / "step-00000020" / "model.safetensors")
    assert torch.equal(weights["a.weight"], torch.full((3, 2), 2.0))


def test_a_type_that_no_checkpoint_holds_is_refused(run: Path) -> None:
    with pytest.raises(TypeError, match=r"is of torch\.complex128"):
        save_checkpoint(run, 30, model={"phase": torch.zeros(1, dtype=torch.complex128)}, optimizer={}, info={})
    assert not temporaries(run)
    assert steps(run) == [10, 20]
