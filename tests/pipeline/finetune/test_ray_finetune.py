"""`vilbert finetune … --workers 2`: the losses and turns of one process."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.train.run.journal import read_journal

from ..tasks.small_tasks import finetune_arguments
from ..train.test_ray_pretrain import train_workers
from .multitask.test_run import STOPPING, arguments, turns, write_tasks
from .test_processes import assert_alike

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def run_on_two(command: list[str], address: str) -> None:
    """Run a command on two workers of a Ray; both must be there at once, and it must end well."""
    command = [sys.executable, "-m", "vilbert.pipeline.cli", *command, "--workers", "2", "--ray-address", address]
    before, most, deadline = train_workers(), 0, time.monotonic() + 240
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        while True:
            try:
                _, said = process.communicate(timeout=0.1)
                break
            except subprocess.TimeoutExpired:
                most = max(most, len(train_workers() - before))
                if time.monotonic() > deadline:
                    process.kill()
    assert process.returncode == 0, said
    assert most == 2, f"{most} workers were seen to train"


def test_a_task_learns_as_in_one_process(small: Path, tmp_path: Path, ray_cluster: str) -> None:
    alone, both = tmp_path / "alone", tmp_path / "both"
    often = ["--batch-size", "7", "--log-every", "1", "--eval-every", "2"]
    run_on_two([*finetune_arguments(small, "vqa", both, steps=4), *often], ray_cluster)
    assert main([*finetune_arguments(small, "vqa", alone, steps=4), *often]) == 0
    assert_alike(both, alone)
    assert len(read_journal(both)) == 6


def test_several_tasks_take_the_turns_of_one_process(small: Path, tmp_path: Path, ray_cluster: str) -> None:
    tasks = write_tasks(small, tmp_path / "tasks.json", "snli-ve", "refcocog", batch_size=7)
    alone, both = tmp_path / "alone", tmp_path / "both"
    run_on_two(arguments(small, tasks, both, *STOPPING), ray_cluster)
    assert main(arguments(small, tasks, alone, *STOPPING)) == 0
    assert turns(both) == turns(alone)
    assert_alike(both, alone)
