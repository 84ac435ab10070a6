"""Several tasks in one run: each is learnt, and a run that is killed goes on as if nothing had happened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from vilbert.model.tasks import ViLBertForTasks
from vilbert.pipeline.cli import main, parse
from vilbert.pipeline.finetune.multitask.settings import MultitaskSettings
from vilbert.pipeline.finetune.start import build_task_model
from vilbert.pipeline.tasks.registry import TASKS, find_task
from vilbert.pipeline.train.run.checkpoints import read_checkpoint
from vilbert.pipeline.train.run.journal import read_journal, without_timing

from ...tasks.small_tasks import FOLDERS

TASK_TOKENS = {name: find_task(name).token for name in TASKS}
DATA = {"nlvr2": "pairs"}


def write_tasks(small: Path, path: Path, *names: str, **more: Any) -> Path:
    """Write a file of tasks; more: settings of each of them."""
    tasks = [
        {
            "task": name, "annotations": str(small / FOLDERS[name]), "data": [str(small / DATA.get(name, "features"))],
            **({"min_answer_count": 1} if name in ("vqa", "gqa") else {}), **more,
        }
        for name in names
    ]  # fmt: skip
    path.write_text(json.dumps(tasks))
    return path


def arguments(small: Path, tasks: Path, output: Path, *more: str) -> list[str]:
    """Return the command line, without `vilbert`, of a short run from nothing."""
    return [
        "finetune", "multitask", "--tasks", str(tasks), "--output", str(output), "--init-from", "none",
        "--tokenizer", "new", "--model", str(small / "model.json"), "--batch-size", "32", "--eval-every", "10000",
        "--checkpoint-every", "10000", "--log-every", "1", "--num-workers", "0", "--device", "cpu", "--tracker", "none",
        "--learning-rate", "0.001", "--head-learning-rate", "0.001", "--beta2", "0.98", "--warmup", "0.05",
        "--max-tokens", "16", "--max-regions", "8", "--seed", "1", "--clip", "1.0", "--bias-correction", *more,
    ]  # fmt: skip


def run(small: Path, tasks: Path, output: Path, *more: str) -> int:
    torch.set_num_threads(1)
    return main(arguments(small, tasks, output, *more))


def lines(output: Path) -> list[dict[str, Any]]:
    return without_timing(read_journal(output))


def turns(output: Path) -> list[str]:
    """Return the task of each step, told from the losses that were written down."""
    losses = [[name for name in line if name.endswith("_loss")] for line in lines(output) if line["kind"] == "train"]
    assert all(len(names) == 1 for names in losses)
    return [names[0].removesuffix("_loss") for names in losses]


STOPPING = (
    "--max-steps", "18", "--eval-every", "3", "--checkpoint-every", "5", "--keep", "10", "--patience", "0",
    "--cooldown", "0", "--better", "0.9", "--learning-rate", "1e-9", "--head-learning-rate", "1e-9", "--gap", "3",
)  # fmt: skip
"""Nothing is learnt, so every task stops at the second evaluation, but those that are not evaluated."""


@pytest.fixture(scope="module")
def stopped(small: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return a file of tasks and the folder of a run of them, of which one stops and one cannot."""
    folder = tmp_path_factory.mktemp("multitask")
    tasks = write_tasks(small, folder / "tasks.json", "snli-ve", "refcocog", batch_size=12)
    listed = json.loads(tasks.read_text())
    listed[1]["eval_split"] = "none"
    tasks.write_text(json.dumps(listed))
    assert run(small, tasks, folder / "run", *STOPPING) == 0
    return tasks, folder / "run"


def test_a_task_that_does_not_get_better_has_fewer_turns(stopped: tuple[Path, Path]) -> None:
    found = turns(stopped[1])
    assert found[:6] == ["snli-ve", "refcocog"] * 3
    assert found[6:].count("snli-ve") == 3  # of twelve; one turn for three of the other
    steering = read_checkpoint(stopped[1] / "checkpoints/step-00000018", hashes=False).info["steering"]
    assert [step for step, _ in steering] == [3, 6, 9, 12, 15, 18]
    assert all(len(metrics) == 2 and metrics[1] is None for _, metrics in steering)


@pytest.mark.parametrize(("last", "more"), [(5, ("--num-workers", "1")), (10, ())])
def test_a_run_that_was_killed_before_or_after_a_stop_goes_on_as_if_it_had_not_been(
    small: Path, stopped: tuple[Path, Path], tmp_path: Path, last: int, more: tuple[str, ...]
) -> None:
    tasks, finished = stopped
    again = Path(shutil.copytree(finished, tmp_path / "run"))
    for checkpoint in (again / "checkpoints").iterdir():
        if int(checkpoint.name.removeprefix("step-")) > last:
            shutil.rmtree(checkpoint)
    shutil.rmtree(again / "final")
    assert run(small, tasks, again, *STOPPING, *more) == 0
    assert lines(again) == lines(finished)
    assert turns(again) == turns(finished)
    name = "checkpoints/step-00000018"
    ours, theirs = (read_checkpoint(output / name, hashes=False) for output in (again, finished))
    assert ours.info["steering"] == theirs.info["steering"]
    for found, expected in zip(ours.read_tensors(), theirs.read_tensors(), strict=True):
        assert found.keys() == expected.keys()
        assert all(torch.equal(found[key], expected[key]) for key in found)


def test_evaluations_at_other_steps_are_other_training(
    small: Path, stopped: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    tasks, finished = stopped
    assert run(small, tasks, finished, *STOPPING, "--eval-every", "4") == 2
    assert "eval_every 3 before, now 4" in capsys.readouterr().err


def test_other_tasks_are_another_run(
    small: Path, stopped: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = json.loads(stopped[0].read_text())
    listed[0]["loss_weight"] = 2
    other = tmp_path / "tasks.json"
    other.write_text(json.dumps(listed))
    assert run(small, other, stopped[1], *STOPPING) == 2
    assert "loss_weight 1.0 before, now 2.0" in capsys.readouterr().err


def test_by_size_each_task_is_seen_as_often_as_asked(small: Path, tmp_path: Path) -> None:
    tasks = write_tasks(small, tmp_path / "tasks.json", "nlvr2", "vqa", batch_size=250, eval_split="none")
    assert run(small, tasks, tmp_path / "run", "--turns", "by-size", "--epochs", "1") == 0
    # 750 pairs and 1,500 questions: no image of one is in a test of the other, for nothing is held out.
    assert turns(tmp_path / "run") == ["vqa", "nlvr2", "vqa"] + ["vqa", "nlvr2", "vqa"] * 2
    train = [line for line in lines(tmp_path / "run") if line["kind"] == "train"]
    assert [line["samples"] for line in train] == [250 * (step + 1) for step in range(9)]


@pytest.fixture(scope="module")
def learnt(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two tasks, long enough to learn both."""
    folder = tmp_path_factory.mktemp("learnt")
    tasks = write_tasks(small, folder / "tasks.json", "refcocog", "snli-ve")
    more = ("--max-steps", "500", "--learning-rate", "0.002", "--head-learning-rate", "0.002", "--no-stop-and-go")
    assert run(small, tasks, folder / "run", *more) == 0
    return folder / "run"


@pytest.mark.slow
def test_tasks_are_learnt_together_and_each_is_asked_by_its_name(
    small: Path, learnt: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = json.loads((learnt / "evaluation.json").read_text())["figures"]
    reached = {name: figures[f"{name}_accuracy"] for name in ("refcocog", "snli-ve")}
    assert figures["score"] == pytest.approx(sum(reached.values()) / 2)
    assert min(reached.values()) > 0.75, reached
    for name, accuracy in reached.items():
        asked = [
            "evaluate", name, str(small / "features"), "--checkpoint", str(learnt), "--annotations",
            str(small / FOLDERS[name]), "--device", "cpu", "--num-workers", "0", "--json",
        ]  # fmt: skip
        capsys.readouterr()
        assert main(asked) == 0
        assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(accuracy, abs=1e-4)
    asked[1] = "vqa"
    assert main(asked) == 2
    assert "was trained for refcocog, snli-ve, not vqa" in capsys.readouterr().err


@pytest.mark.slow
def test_one_of_the_tasks_goes_on_alone_from_what_all_have_learnt(small: Path, learnt: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    alone = [
        "finetune", "snli-ve", str(small / "features"), "--annotations", str(small / "snli-ve"), "--output",
        str(output), "--init-from", str(learnt / "final"), "--batch-size", "32", "--max-steps", "1", "--max-tokens",
        "16", "--max-regions", "8", "--num-workers", "0", "--device", "cpu", "--tracker", "none", "--warmup", "1",
    ]  # fmt: skip
    assert main(alone) == 0
    figures, before = (json.loads((it / "evaluation.json").read_text())["figures"] for it in (output, learnt))
    assert figures["accuracy"] == pytest.approx(before["snli-ve_accuracy"], abs=0.02)


@pytest.mark.slow
def test_each_task_has_learnt_its_own_token(learnt: Path) -> None:
    model = ViLBertForTasks.from_pretrained(learnt / "final")
    name = "bert.embeddings.task_embeddings.weight"
    after = model.state_dict()[name]
    before = build_task_model(model.config, seed=1).state_dict()[name]
    alike = torch.cosine_similarity(before, after, dim=1)  # decay shortens a row, and does not turn it
    moved = set((alike < 0.9999).nonzero()[:, 0].tolist())
    assert moved == {TASK_TOKENS["refcocog"], TASK_TOKENS["snli-ve"]}


@pytest.mark.slow
def test_the_token_is_heard(learnt: Path) -> None:
    """The same sentence before the same picture, as one task and as the other."""
    model = ViLBertForTasks.from_pretrained(learnt / "final").eval()
    draw = torch.Generator().manual_seed(0)
    inputs = {
        "input_ids": torch.randint(5, 12, (4, 6), generator=draw),
        "image_feat": torch.randn(4, 4, 16, generator=draw),
        "image_loc": torch.rand(4, 4, 5, generator=draw),
        "image_attention_mask": torch.ones(4, 4, dtype=torch.int64),
    }
    with torch.no_grad():
        said = [
            model(**inputs, task_ids=torch.full((4, 1), TASK_TOKENS[name]), heads=("vil_tri_prediction",))
            for name in ("refcocog", "snli-ve")
        ]
    assert (said[0].vil_tri_prediction - said[1].vil_tri_prediction).abs().max() > 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("steps", "least"), [(2, 0.0), pytest.param(400, 0.5, marks=pytest.mark.slow)])
def test_captions_are_learnt_and_written_beside_another_task_by_a_token_of_their_own(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], steps: int, least: float
) -> None:
    tasks = write_tasks(small, tmp_path / "tasks.json", "captioning", "snli-ve")
    rates = ("--learning-rate", "0.002", "--head-learning-rate", "0.002")
    assert run(small, tasks, tmp_path / "run", "--max-steps", str(steps), *rates, "--no-stop-and-go") == 0
    asked = [
        "evaluate", "captioning", str(small / "features"), "--checkpoint", str(tmp_path / "run"), "--annotations",
        str(small / "captions"), "--device", "cpu", "--num-workers", "0", "--json",
    ]  # fmt: skip
    capsys.readouterr()
    assert main(asked) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["bleu_4"] >= least, figures


def test_every_task_has_a_token_of_its_own() -> None:
    assert None not in TASK_TOKENS.values()
    assert len(set(TASK_TOKENS.values())) == len(TASK_TOKENS)


def test_the_file_of_12_in_1_is_of_tasks_with_tokens() -> None:
    settings = parse("finetune multitask", ["--tasks", "12-in-1", "--output", "o", "--init-from", "i"])
    assert isinstance(settings, MultitaskSettings)
    entries = {entry.settings.task: entry for entry in settings.entries()}
    assert entries.keys() <= TASK_TOKENS.keys()
    assert (settings.optimizer.learning_rate, settings.epochs, settings.plateau.gap) == (2e-5, 20, 4)
    assert entries["vqa"].settings.batch_size == 128
    assert TASK_TOKENS["retrieval-coco"] != TASK_TOKENS["retrieval"]
    assert {"retrieval", "retrieval-coco"} <= entries.keys()
    assert all(entry.leave_out is None for entry in entries.values())  # the test splits of each
    assert set(settings.data) == {name for entry in entries.values() for name in entry.settings.data}


GOOD = {"task": "vqa", "annotations": "a", "data": ["features"]}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[", "is neither YAML nor JSON"),
        ("{}", "expected a list of tasks"),
        ([], "expected a list of tasks"),
        ([{**GOOD, "task": "vqs"}], "task 'vqs': give one of vqa, gqa"),
        ([{"task": "vqa"}], "task 1 (vqa): has no annotations"),
        ([GOOD, {**GOOD, "batchsize": 3}], "task 2 (vqa): no setting batchsize"),
        ([GOOD, GOOD], "vqa appears twice"),
        ([{**GOOD, "batch_size": "many"}], 'batch_size: must be a whole number, is "many"'),
        ([{**GOOD, "batch_size": 2.5}], "batch_size: must be a whole number, is 2.5"),
        ([{**GOOD, "batch_size": True}], "batch_size: must be a whole number, is true"),
        ([{**GOOD, "data": [1]}], "data: must be a text, is 1"),
        ([{**GOOD, "batch_size": 0}], "(vqa): batch_size: must be at least 1, is 0"),
        ([{**GOOD, "loss_weight": 0}], "(vqa): loss_weight: must be above 0, is 0"),
        ([{"task": "vqa", "annotations": "a"}], "no data set"),
    ],
)
def test_a_file_of_tasks_that_is_wrong_says_where(
    tmp_path: Path, content: Any, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "tasks.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(SystemExit, match="2"):
        main(["finetune", "multitask", "--tasks", str(path), "--output", "o", "--init-from", "i"])
    found = " ".join(capsys.readouterr().err.replace("│", " ").split())
    assert said in found


def test_a_file_of_tasks_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["finetune", "multitask", "--tasks", "nowhere.yaml", "--output", "o", "--init-from", "i"])
    assert "nowhere.yaml: no such file" in " ".join(capsys.readouterr().err.replace("│", " ").split())
