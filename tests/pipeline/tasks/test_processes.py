"""Several processes fine-tune as one: the same batches, losses and answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.cli import main
from pipeline.train.journal import read_journal, without_timing

from ..train.forks import Forks, forking
from .small_tasks import finetune_arguments


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with forking() as source:
        yield source


@pytest.mark.parametrize("task", [pytest.param("vqa", marks=pytest.mark.slow), "captioning"])
def test_two_processes_are_one(small: Path, tmp_path: Path, forks: Forks, task: str) -> None:
    """Parts of a batch are uneven, and of captions they have other numbers of words, by which a loss is divided."""
    torch.set_num_threads(1)
    alone, both, log = tmp_path / "alone", tmp_path / "both", tmp_path / "log"
    often = ["--batch-size", "7", "--log-every", "1", "--eval-every", "2"]
    assert main([*finetune_arguments(small, task, alone, steps=4), *often]) == 0
    assert forks.run_ranks([*finetune_arguments(small, task, both, steps=4), *often], log, world=2) == [0, 0], (
        log.read_text()
    )
    ours, theirs = (without_timing(read_journal(run)) for run in (both, alone))
    assert [(it["kind"], it["step"]) for it in ours] == [(it["kind"], it["step"]) for it in theirs]
    assert len(ours) == 6
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        for name in mine.keys() - {"kind"}:
            assert mine[name] == pytest.approx(other[name], rel=1e-5), (name, mine, other)
