"""That every task learns what it is for, on pictures that are simple enough for seconds.

What is asked cannot be told from the text; so a blind model, which sees another picture's regions, is the test of the
test: it must fall short of the same limit.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from pipeline.cli import main

from .small_tasks import finetune_arguments

# Steps, the figure, and what is reached at least; a blind model stays below the third number.
LIMITS = {
    "vqa": (300, "accuracy", 0.85, 0.65),
    "gqa": (400, "accuracy", 0.85, 0.65),
    "vcr-qa": (300, "accuracy", 0.8, 0.45),
    "vcr-qar": (300, "accuracy", 0.8, 0.45),
    "refcocog": (200, "accuracy", 0.9, 0.6),
    "retrieval": (300, "accuracy", 0.8, 0.5),
    "captioning": (300, "next_word_accuracy", 0.85, 0.65),
    "nlvr2": (400, "accuracy", 0.8, 0.65),
    "snli-ve": (300, "accuracy", 0.85, 0.65),
}


def reached(small: Path, task: str, output: Path, *more: str) -> float:
    torch.set_num_threads(1)
    steps, figure, _, _ = LIMITS[task]
    assert main([*finetune_arguments(small, task, output, steps=steps), *more]) == 0
    return float(json.loads((output / "evaluation.json").read_text())["figures"][figure])


@pytest.mark.parametrize("task", LIMITS)
def test_a_task_is_learnt_from_the_picture(small: Path, tmp_path: Path, task: str) -> None:
    _, _, least, most = LIMITS[task]
    seeing, blind = reached(small, task, tmp_path / "seeing"), reached(small, task, tmp_path / "blind", "--blind")
    assert seeing >= least, (seeing, blind)
    assert blind <= most, (seeing, blind)
