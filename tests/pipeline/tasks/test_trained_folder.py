"""A run's checkpoints are evaluated and asked as its final/ is, whether or not it has come to its end."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from vilbert.model.tasks import ViLBertForTasks
from vilbert.pipeline.cli import main
from vilbert.pipeline.tasks.task_card import TASK_FILE, read_task_card
from vilbert.pipeline.train.engine.loop import model_tensors
from vilbert.pipeline.train.run.checkpoints import save_checkpoint
from vilbert.pipeline.train.run.journal import read_journal

from ..predict.tiny_predictor import load, write_model, write_scenes
from .small_tasks import FOLDERS, finetune_arguments

STEPS = 6


def run(small: Path, output: Path, *more: str) -> int:
    torch.set_num_threads(1)
    every = ["--checkpoint-every", "2", "--eval-every", "2", "--keep", "9", *more]
    return main([*finetune_arguments(small, "vqa", output, steps=STEPS), *every])


@pytest.fixture(scope="module")
def finished(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("trained") / "run"
    assert run(small, output) == 0
    return output


def evaluate(small: Path, checkpoint: Path, output: Path) -> int:
    return main([
        "evaluate", "vqa", str(small / "features"), "--checkpoint", str(checkpoint), "--device", "cpu", "--json",
        "--annotations", str(small / FOLDERS["vqa"]), "--num-workers", "0", "--output", str(output),
    ])  # fmt: skip


@pytest.mark.parametrize("step", [2, 6])
def test_a_checkpoint_gives_the_figures_of_the_evaluation_after_its_step(
    small: Path, finished: Path, tmp_path: Path, step: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(small, finished / "checkpoints" / f"step-{step:08d}", tmp_path / "results.json") == 0
    figures = json.loads(capsys.readouterr().out)
    (entry,) = [it for it in read_journal(finished) if it["kind"] == "eval" and it["step"] == step]
    assert figures.pop("left_out") == 0
    assert figures == {name: pytest.approx(entry[name], rel=1e-5) for name in figures}
    assert {"loss", "accuracy"} <= figures.keys()


def test_checkpoints_are_not_all_alike(finished: Path) -> None:
    losses = {it["loss"] for it in read_journal(finished) if it["kind"] == "eval"}
    assert len(losses) == 3


def test_before_its_end_a_run_has_checkpoints_alone_and_says_so(
    small: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    under_way = Path(shutil.copytree(finished, tmp_path / "run"))
    shutil.rmtree(under_way / "final")
    assert evaluate(small, under_way, tmp_path / "results.json") == 2
    newest = under_way / "checkpoints" / "step-00000006"
    assert f"is not finished; run its command again, or give one of its checkpoints, such as {newest}" in (
        capsys.readouterr().err
    )
    assert evaluate(small, newest, tmp_path / "results.json") == 0


def test_a_damaged_model_is_told(
    small: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damaged = Path(shutil.copytree(finished, tmp_path / "run"))
    file = damaged / "final" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    assert evaluate(small, damaged, tmp_path / "answers.json") == 2
    assert "its parameters are damaged" in capsys.readouterr().err


def test_a_folder_for_results_that_is_not_there_is_told_before_anything_is_answered(
    small: Path, finished: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(small, finished, tmp_path / "nowhere" / "answers.json") == 2
    assert f"the folder {tmp_path / 'nowhere'} does not exist" in capsys.readouterr().err


def test_a_run_that_is_refused_leaves_the_card_as_it_was(small: Path, finished: Path) -> None:
    before = (finished / TASK_FILE).read_bytes()
    assert run(small, finished, "--max-tokens", "14") == 2
    assert (finished / TASK_FILE).read_bytes() == before == (finished / "final" / TASK_FILE).read_bytes()
    assert read_task_card(finished).max_words == 16


@pytest.mark.slow
def test_a_start_that_was_killed_before_it_wrote_what_it_is_can_be_made_again(small: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / TASK_FILE).write_text("{}")
    assert run(small, tmp_path / "run", "--max-steps", "1") == 0
    assert read_task_card(tmp_path / "run").task == "vqa"


def test_the_run_says_where_the_best_evaluation_is(
    small: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    output = tmp_path / "run"
    assert run(small, output, "--learning-rate", "0.05", "--keep", "1") == 0
    accuracy = {it["step"]: it["accuracy"] for it in read_journal(output) if it["kind"] == "eval"}
    best = max(accuracy, key=lambda step: (accuracy[step], -step))
    assert best != STEPS, accuracy
    path = output / "checkpoints" / f"step-{best:08d}"
    assert f"best evaluation after step {best}, checkpoint {path}" in caplog.text
    assert path.is_dir()


def test_a_checkpoint_can_be_asked_about_photographs(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    photographs = write_scenes(tmp_path / "shapes")[:2]
    made = write_model(tmp_path / "run", "vqa")
    model = ViLBertForTasks.from_pretrained(made / "final")
    description: dict[str, Any] = {"model": model.config.to_dict()}
    step = save_checkpoint(made, 2, model=model_tensors(model), optimizer={}, info={"run": description})
    shutil.copytree(made / "final", made / "tokenizer")
    found, expected = (load(folder).answer(photographs, ["what is left"]) for folder in (step, made))
    assert found == expected
