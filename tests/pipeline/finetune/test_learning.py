"""That every task learns what it is for, on pictures that are simple enough for seconds.

What is asked cannot be told from the text. So the same model that is shown other pictures' regions must fall short of
what it reaches: a test of the test, as a broken image stream would do no better.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from vilbert.pipeline.cli import main

from ..tasks.small_tasks import FOLDERS, finetune_arguments

# Steps, what is reached at least, and what is not reached with other pictures.
LIMITS = {
    "vqa": (400, 0.85, 0.65),
    "gqa": (500, 0.85, 0.65),
    "vcr-qa": (250, 0.7, 0.45),
    "vcr-qar": (250, 0.7, 0.45),
    "refcocog": (200, 0.9, 0.6),
    "nlvr2": (800, 0.85, 0.65),  # one picture of the two gives 0.75
    "snli-ve": (250, 0.8, 0.65),
}

FOR_CI = ("refcocog",)  # the fastest


def learn(small: Path, task: str, output: Path, steps: int, *more: str) -> dict[str, float]:
    """Train and return the figures of the last evaluation."""
    torch.set_num_threads(1)
    assert main([*finetune_arguments(small, task, output, steps=steps), *more]) == 0
    figures: dict[str, float] = json.loads((output / "evaluation.json").read_text())["figures"]
    return figures


def evaluate(small: Path, task: str, run: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, float]:
    """Return the figures of `vilbert evaluate`."""
    data = small / ("pairs" if task == "nlvr2" else "features")
    capsys.readouterr()
    arguments = [
        "evaluate", task, str(data), "--checkpoint", str(run), "--annotations", str(small / FOLDERS[task]),
        "--device", "cpu", "--json", *(() if task == "retrieval" else ("--num-workers", "0")),
    ]  # fmt: skip
    assert main([*arguments, *more]) == 0
    figures: dict[str, float] = json.loads(capsys.readouterr().out)
    return figures


@pytest.mark.parametrize(
    "task", [task if task in FOR_CI else pytest.param(task, marks=pytest.mark.slow) for task in LIMITS]
)
def test_a_task_is_learnt_from_the_picture(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], task: str
) -> None:
    steps, least, most = LIMITS[task]
    figures = learn(small, task, tmp_path / "run", steps)
    assert figures["accuracy"] >= least
    assert evaluate(small, task, tmp_path / "run", capsys, "--blind")["accuracy"] <= most


@pytest.mark.slow
def test_retrieval_finds_pictures_and_captions(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of 60 pictures; about one in twelve shows the three things of another one in another order."""
    learn(small, "retrieval", tmp_path / "run", 300)
    figures = evaluate(small, "retrieval", tmp_path / "run", capsys, "--images", "60")
    assert figures["image_retrieval_r1"] >= 0.5
    assert figures["text_retrieval_r1"] >= 0.5
    blind = evaluate(small, "retrieval", tmp_path / "run", capsys, "--images", "60", "--blind")
    assert blind["image_retrieval_r1"] <= 0.15
    assert blind["image_retrieval_median_rank"] > 10


@pytest.mark.slow
def test_captions_name_what_is_there(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learn(small, "captioning", tmp_path / "run", 300)
    figures = evaluate(small, "captioning", tmp_path / "run", capsys, "--images", "60", "--method", "greedy")
    assert figures["bleu_4"] >= 0.8
    blind = evaluate(small, "captioning", tmp_path / "run", capsys, "--images", "60", "--method", "greedy", "--blind")
    assert blind["bleu_4"] <= 0.3
