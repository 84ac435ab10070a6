"""Several processes fine-tune as one: the same batches, losses and answers."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from vilbert.pipeline.cli import main
from vilbert.pipeline.train.run.journal import read_journal, without_timing

from ..tasks.small_tasks import finetune_arguments
from ..train.forks import Forks, forking
from .multitask.test_run import STOPPING, arguments, run, turns, write_tasks


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with forking() as source:
        yield source


def assert_alike(ours: Path, theirs: Path) -> None:
    """Compare the journals of two runs, losses up to rounding."""
    one, other = (without_timing(read_journal(run)) for run in (ours, theirs))
    assert [(it["kind"], it["step"]) for it in one] == [(it["kind"], it["step"]) for it in other]
    for mine, its in zip(one, other, strict=True):
        assert mine.keys() == its.keys()
        for name in mine.keys() - {"kind"}:
            assert mine[name] == pytest.approx(its[name], rel=1e-5), (name, mine, its)


@pytest.mark.slow
@pytest.mark.parametrize("task", ["vqa", "captioning"])
def test_two_processes_are_one(small: Path, tmp_path: Path, forks: Forks, task: str) -> None:
    """Parts of a batch are uneven, and of captions they have other numbers of words, by which a loss is divided."""
    torch.set_num_threads(1)
    alone, both, log = tmp_path / "alone", tmp_path / "both", tmp_path / "log"
    often = ["--batch-size", "7", "--log-every", "1", "--eval-every", "2"]
    assert main([*finetune_arguments(small, task, alone, steps=4), *often]) == 0
    assert forks.run_ranks([*finetune_arguments(small, task, both, steps=4), *often], log, world=2) == [0, 0], (
        log.read_text()
    )
    assert_alike(both, alone)
    assert len(read_journal(both)) == 6


@pytest.mark.slow
def test_two_processes_take_the_same_turns_of_several_tasks(small: Path, tmp_path: Path, forks: Forks) -> None:
    """Stop-and-go decides by what all have answered; of processes that decided otherwise each would wait for the other.

    A task has the head of its own alone in a step, so the other's parameters have no gradients there.
    """
    tasks = write_tasks(small, tmp_path / "tasks.json", "snli-ve", "refcocog", batch_size=7)
    listed = json.loads(tasks.read_text())
    listed[1]["eval_split"] = "none"  # it never stops
    tasks.write_text(json.dumps(listed))
    alone, both, log = tmp_path / "alone", tmp_path / "both", tmp_path / "log"
    assert run(small, tasks, alone, *STOPPING) == 0
    assert forks.run_ranks(arguments(small, tasks, both, *STOPPING), log, world=2) == [0, 0], log.read_text()
    assert turns(both) == turns(alone)
    assert turns(alone)[6:] != ["snli-ve", "refcocog"] * 6, "it was not stopped"
    assert_alike(both, alone)


def killed_at_once(*_: object, **__: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_loader_ends_an_evaluation_and_a_fine_tuning(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed when it begins its first batch, as by the system when memory runs out."""
    run, answers = tmp_path / "run", tmp_path / "answers.json"
    assert main(finetune_arguments(small, "vqa", run, steps=1)) == 0
    monkeypatch.setattr("vilbert.pipeline.evaluate.evaluation.make_item_batches", killed_at_once)
    of_the_task = ["--checkpoint", str(run), "--annotations", str(small / "vqa"), "--output", str(answers)]
    assert main(["evaluate", "vqa", str(small / "features"), *of_the_task, "--num-workers", "2"]) == 1
    said = capsys.readouterr().err
    assert "vilbert evaluate: a data loading process" in said
    assert "was killed by signal 9" in said
    assert not answers.exists()
    monkeypatch.setattr("vilbert.pipeline.finetune.run.make_item_batches", killed_at_once)
    again = finetune_arguments(small, "vqa", tmp_path / "again", steps=1)
    assert main([*again, "--num-workers", "2"]) == 1
    assert "vilbert finetune: a data loading process" in capsys.readouterr().err
    assert not multiprocessing.active_children()
