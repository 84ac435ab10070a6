"""Checkpoints that a thread writes are those of the step at which they were asked for."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import SafetensorError

from vilbert.pipeline.train.run import checkpoint_writer
from vilbert.pipeline.train.run.checkpoint_writer import CheckpointWriter
from vilbert.pipeline.train.run.checkpoints import checkpoints, load_checkpoint, save_checkpoint


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return an event before which no checkpoint is written."""
    event = threading.Event()

    def save(*args: Any, **kwargs: Any) -> Path:
        assert event.wait(30)
        return save_checkpoint(*args, **kwargs)

    monkeypatch.setattr(checkpoint_writer, "save_checkpoint", save)
    return event


def test_training_goes_on_and_the_checkpoint_is_as_it_was(tmp_path: Path, held: threading.Event) -> None:
    weight, info = torch.arange(6.0).view(2, 3), {"step": 1}
    with CheckpointWriter(tmp_path, keep=2, is_async=True) as writer:
        writer.save(1, model={"a": weight.t()}, optimizer={"a/step": torch.tensor(1.0)}, info=info, best=None)
        weight.zero_()
        writer.check()
        assert not checkpoints(tmp_path)
        held.set()
    (whole,) = checkpoints(tmp_path)
    _, model, optimizer = load_checkpoint(whole.path)
    assert torch.equal(model["a"], torch.arange(6.0).view(2, 3).t())
    assert torch.equal(optimizer["a/step"], torch.tensor(1.0))


def test_one_is_written_at_a_time_and_old_ones_are_deleted(tmp_path: Path) -> None:
    with CheckpointWriter(tmp_path, keep=2, is_async=True) as writer:
        for step in range(1, 6):
            writer.save(step, model={"a": torch.full((1,), float(step))}, optimizer={}, info={}, best=2)
    assert [checkpoint.step for checkpoint in checkpoints(tmp_path)] == [2, 4, 5]


def test_a_checkpoint_that_cannot_be_written_ends_the_run_at_the_next_step(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file")
    writer = CheckpointWriter(tmp_path, keep=1, is_async=True)
    writer.save(1, model={"a": torch.zeros(1)}, optimizer={}, info={}, best=None)
    for thread in threading.enumerate():
        if thread.name == "checkpoint-1":
            thread.join()
    with pytest.raises(OSError, match="the checkpoint of step 1"):
        writer.check()
    writer.check()


def test_an_error_of_the_run_waits_for_the_checkpoint(tmp_path: Path, held: threading.Event) -> None:
    def run() -> None:
        with CheckpointWriter(tmp_path, keep=1, is_async=True) as writer:
            writer.save(1, model={"a": torch.zeros(1)}, optimizer={}, info={}, best=None)
            held.set()
            raise ValueError("of the step")

    with pytest.raises(ValueError, match="of the step"):
        run()
    assert [checkpoint.step for checkpoint in checkpoints(tmp_path)] == [1]


def test_without_a_thread_it_is_whole_at_once(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path, keep=1, is_async=False)
    writer.save(1, model={"a": torch.zeros(1)}, optimizer={}, info={}, best=None)
    assert [checkpoint.step for checkpoint in checkpoints(tmp_path)] == [1]


SECOND_CTRL_C = """
import signal, sys, threading
import torch
from vilbert.pipeline.train.run import checkpoint_writer

begun = threading.Event()

def save(*args, **kwargs):
    begun.set()
    while True:  # in native code, as the writing of a large file
        torch.ones(1000).sort()

checkpoint_writer.save_checkpoint = save
try:
    with checkpoint_writer.CheckpointWriter(sys.argv[1], keep=1, is_async=True) as writer:
        writer.save(1, model={"a": torch.zeros(1)}, optimizer={}, info={}, best=None)
        assert begun.wait(30)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        writer.wait()
except KeyboardInterrupt:
    sys.exit(130)
"""


def test_a_second_ctrl_c_ends_the_process_at_once_and_does_not_abort_it(tmp_path: Path) -> None:
    """Python would end the thread within C++ or Rust, which abort the process then: status 134."""
    done = subprocess.run(
        [sys.executable, "-c", SECOND_CTRL_C, str(tmp_path)], capture_output=True, text=True, timeout=100
    )
    assert (done.returncode, done.stderr) == (130, "")


def test_a_full_disk_leaves_the_previous_checkpoint_and_nothing_of_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any) -> None:
        raise SafetensorError(
            "Error while serializing: IoError(Os { code: 28 }): No space left on device (os error 28)"
        )

    def run() -> None:
        with CheckpointWriter(tmp_path, keep=1, is_async=True) as writer:
            writer.save(1, model={"a": torch.ones(1)}, optimizer={}, info={}, best=None)
            writer.wait()
            monkeypatch.setattr("safetensors.torch.save_file", refuse)
            writer.save(2, model={"a": torch.zeros(1)}, optimizer={}, info={}, best=None)

    with pytest.raises(OSError, match="No space left on device: the checkpoint of step 2 was not written") as caught:
        run()
    assert caught.value.errno == errno.ENOSPC
    assert torch.equal(load_checkpoint(checkpoints(tmp_path)[-1].path)[1]["a"], torch.ones(1))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000001"]
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint-")]
