"""A classifier's answers and those of the annotations: told apart, counted, and refused where nothing fits."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.gqa.files import GqaQuestion
from vilbert.pipeline.tasks.gqa.task import GqaTask
from vilbert.pipeline.tasks.known_answers import compare_answers, count_known
from vilbert.pipeline.tasks.registry import TaskFiles, open_task
from vilbert.pipeline.tasks.task_card import TASK_FILE
from vilbert.pipeline.tasks.vqa.answers import load_vocabulary
from vilbert.pipeline.tasks.vqa.files import read_questions
from vilbert.pipeline.tasks.vqa.task import VqaTask

from .small_tasks import FOLDERS, finetune_arguments


def gqa(answers: Sequence[str | None], labels: Sequence[str]) -> GqaTask:
    return GqaTask(
        "gqa",
        [GqaQuestion(question_id=str(n), image_id="1", text="what", answer=answer) for n, answer in enumerate(answers)],
        labels,
    )


def test_questions_with_and_without_a_known_answer_are_counted(small: Path) -> None:
    assert count_known(gqa(["yes", "t-shirt", None, "yes"], ["yes", "no"])) == (2, 3)
    questions = read_questions(small / "vqa", "val")
    assert count_known(VqaTask("vqa", questions, ["yes"]))[1] == len(questions)
    assert 0 < count_known(VqaTask("vqa", questions, ["yes"]))[0] < len(questions)
    assert count_known(VqaTask("vqa", questions, ["yes", "no"])) == (len(questions), len(questions))


def compare(answers: Sequence[str | None], labels: Sequence[str], *, learns: bool = True) -> None:
    compare_answers(gqa(answers, labels), labels, where="gqa, val", of="--checkpoint run", learns=learns)


def test_some_unknown_answers_are_told_and_none_known_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    compare(["yes", "no"], ["yes", "no"])
    compare([None, None], ["yes"])
    assert not caplog.text
    compare(["yes", "cat", "dog"], ["yes", "no"])
    assert "gqa, val: 2 of 3 questions have no answer among the 2 of --checkpoint run" in caplog.text
    with pytest.raises(RefusedError, match=r"3 of 3 questions .* the 2 of --checkpoint run \(.yes., .no., ...\), so"):
        compare(["cat", "dog", "Yes"], ["yes", "no"])
    compare(["cat", "dog", "Yes"], ["yes", "no"], learns=False)
    assert "the metrics below are meaningless" in caplog.text


def finetune(small: Path, task: str, output: Path, *more: str) -> int:
    torch.set_num_threads(1)
    return main([*finetune_arguments(small, task, output, steps=1), *more])


@pytest.fixture(scope="module")
def run(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("answers") / "run"
    assert finetune(small, "gqa", output) == 0
    return output


def evaluate(small: Path, run: Path, annotations: Path, *more: str) -> int:
    return main([
        "evaluate", "gqa", str(small / "features"), "--checkpoint", str(run), "--annotations", str(annotations),
        "--device", "cpu", "--num-workers", "0", *more,
    ])  # fmt: skip


def test_annotations_with_none_of_the_checkpoints_answers_are_told(
    small: Path, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(shutil.copytree(small / "gqa", tmp_path / "gqa")) / "val_balanced_questions.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps({number: {**row, "answer": f"{row['answer']}!"} for number, row in rows.items()}))
    assert evaluate(small, run, tmp_path / "gqa") == 0
    assert "150 of 150 questions have no answer among the 2 of --checkpoint" in caplog.text
    caplog.clear()
    assert evaluate(small, run, small / "gqa") == 0
    assert "no answer among" not in caplog.text


def test_a_card_that_is_not_the_models_is_refused(
    small: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    final = Path(shutil.copytree(run / "final", tmp_path / "final"))
    card = json.loads((final / TASK_FILE).read_text())
    (final / TASK_FILE).write_text(json.dumps({**card, "labels": [*card["labels"], "maybe"]}))
    assert evaluate(small, final, small / "gqa") == 2
    assert "names 3 answers and the classifier has 2 classes" in capsys.readouterr().err


def test_a_list_that_is_not_of_these_annotations_is_refused(
    small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "answers.txt").write_text("oui\nnon\n")
    assert finetune(small, "gqa", tmp_path / "run", "--answers", str(tmp_path / "answers.txt")) == 2
    assert "among the 2 of --answers" in capsys.readouterr().err


def test_a_classifier_of_the_same_answers_in_another_order_is_not_taken_for_this_one(
    small: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = Path(shutil.copytree(run / "final", tmp_path / "start"))
    card = json.loads((start / TASK_FILE).read_text())
    (start / TASK_FILE).write_text(json.dumps({**card, "labels": card["labels"][::-1]}))
    options = finetune_arguments(small, "gqa", tmp_path / "run", steps=1)
    at = options.index("--init-from")
    options = [*options[:at], *options[at + 6 :], "--init-from", str(start)]
    assert main(options) == 2
    assert f"give --answers {start / TASK_FILE}" in capsys.readouterr().err
    assert load_vocabulary(start / TASK_FILE) == tuple(card["labels"][::-1])
    assert main([*options, "--answers", str(start / TASK_FILE)]) == 0
    assert json.loads((tmp_path / "run" / TASK_FILE).read_text())["labels"] == card["labels"][::-1]


def test_secret_answers_make_no_classifier(small: Path, tmp_path: Path) -> None:
    rows = json.loads((small / "gqa" / "val_balanced_questions.json").read_text())
    for row in rows.values():
        del row["answer"]
    (tmp_path / "test_balanced_questions.json").write_text(json.dumps(rows))
    with pytest.raises(RefusedError, match="answers of the test split are not public; train on another --split"):
        open_task("gqa", TaskFiles(folder=tmp_path, seed=0), "test", like=None)


@pytest.mark.parametrize(
    ("task", "option"), [("vcr-qa", "--eval-split"), ("vqa", "--eval-split"), ("vcr-qar", "--split")]
)
def test_a_split_without_answers_neither_trains_nor_evaluates(
    small: Path, tmp_path: Path, task: str, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    annotations = shutil.copytree(small / FOLDERS[task], tmp_path / "annotations")
    if task == "vqa":
        questions = (annotations / "v2_OpenEnded_mscoco_val2014_questions.json").read_bytes()
        (annotations / "v2_OpenEnded_mscoco_test2015_questions.json").write_bytes(questions)
    else:
        rows = [json.loads(line) for line in (annotations / "val.jsonl").read_text().splitlines()]
        bare = [{name: value for name, value in row.items() if not name.endswith("_label")} for row in rows]
        (annotations / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in bare))
    options = finetune_arguments(small, task, tmp_path / "run", steps=1)
    options[options.index("--annotations") + 1] = str(annotations)
    assert main([*options, option, "test"]) == 2
    assert f"{option} test: none of its" in capsys.readouterr().err


@pytest.mark.parametrize("task", ["refcocog", "captioning"])
def test_a_rate_of_heads_that_a_task_has_not_is_refused(
    small: Path, tmp_path: Path, task: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune(small, task, tmp_path / "run", "--head-learning-rate", "0.1") == 2
    assert f"--head-learning-rate: {task} has no new head" in capsys.readouterr().err


def test_all_questions_of_the_split_that_was_trained_on_are_warned_of(
    small: Path, run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trained_on_val = Path(shutil.copytree(run, tmp_path / "run"))
    described = json.loads((run / "run.json").read_text())
    described["settings"]["split"] = "val"
    (trained_on_val / "run.json").write_text(json.dumps(described))
    annotations = Path(shutil.copytree(small / "gqa", tmp_path / "gqa"))
    (annotations / "val_balanced_questions.json").rename(annotations / "val_all_questions.json")
    assert evaluate(small, run, annotations, "--split", "val_all") == 0
    assert "was trained on val" not in caplog.text
    assert evaluate(small, trained_on_val, annotations, "--split", "val_all") == 0
    assert "--split val_all: the model was trained on val; give another" in caplog.text
