"""Q -> AR: right only where the answer and its reason are, and the server's file where all answers have reasons."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.registry import TaskFiles
from vilbert.pipeline.tasks.vcr.files import CHOICES, COLUMNS
from vilbert.pipeline.tasks.vcr.joint import joint_results
from vilbert.pipeline.tasks.vcr.task import VcrTask, open_task


def sure_of(option: int) -> list[float]:
    return [0.7 if it == option else 0.1 for it in range(CHOICES)]


@pytest.fixture
def reasons_of(small: Path) -> VcrTask:
    return open_task("vcr-qar", TaskFiles(folder=small / "vcr", seed=0), "val", None)


def write_answers(path: Path, chosen: dict[str, list[float]], **more: Any) -> Path:
    path.write_text(json.dumps([{"annot_id": name, "answer": answer, **more} for name, answer in chosen.items()]))
    return path


def test_both_have_to_be_right(reasons_of: VcrTask, tmp_path: Path) -> None:
    """A question in two has the right answer, one in three the right reason: by chance both in one of six."""
    answers, reasons = {}, {}
    for number, (question, _) in enumerate(reasons_of.items):
        assert question.answer_label is not None
        assert question.rationale_label is not None
        answers[question.annot_id] = sure_of((question.answer_label + (number % 2 > 0)) % CHOICES)
        reasons[number] = sure_of((question.rationale_label + (number % 3 > 0)) % CHOICES)
    path = write_answers(tmp_path / "answers.json", answers)
    figures, submission = joint_results(path, reasons_of, reasons)
    count = len(reasons)
    assert count % 6 == 0
    assert figures == pytest.approx({"q_a": 1 / 2, "qa_r": 1 / 3, "q_ar": 1 / 6})
    assert submission is None  # reasons are known of the right answers alone


def test_where_answers_are_secret_all_are_given_and_the_servers_file_comes_out(small: Path, tmp_path: Path) -> None:
    rows = [json.loads(line) for line in (small / "vcr" / "val.jsonl").read_text().splitlines()[:5]]
    for row in rows:
        del row["answer_label"], row["rationale_label"]
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = open_task("vcr-qar", TaskFiles(folder=tmp_path, seed=0), "test", None)
    assert len(task.items) == 5 * CHOICES
    draw = np.random.default_rng(0)
    reasons = {number: draw.dirichlet(np.ones(CHOICES)).tolist() for number in range(len(task.items))}
    answers = {row["annot_id"]: draw.dirichlet(np.ones(CHOICES)).tolist() for row in rows}
    figures, submission = joint_results(write_answers(tmp_path / "answers.json", answers), task, reasons)
    assert figures == {}
    assert submission is not None
    table = list(csv.reader(io.StringIO(submission.decode())))
    assert table[0] == list(COLUMNS)
    for number, (name, *numbers) in enumerate(table[1:]):
        assert name == rows[number]["annot_id"]
        given = [value for answer in range(CHOICES) for value in reasons[number * CHOICES + answer]]
        assert [float(it) for it in numbers] == pytest.approx([*answers[name], *given])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda answers: dict(list(answers.items())[1:]), "has no answer to"),
        (lambda answers: {name: answer[:3] for name, answer in answers.items()}, "does not have 4 probabilities"),
    ],
)
def test_answers_to_other_questions_are_refused(reasons_of: VcrTask, tmp_path: Path, change: Any, said: str) -> None:
    answers = {question.annot_id: sure_of(0) for question, _ in reasons_of.items}
    reasons = {number: sure_of(0) for number in range(len(reasons_of.items))}
    path = write_answers(tmp_path / "answers.json", change(answers))
    with pytest.raises(RefusedError, match=said):
        joint_results(path, reasons_of, reasons)


def test_results_of_reasons_are_not_taken_for_answers(reasons_of: VcrTask, tmp_path: Path) -> None:
    answers = {question.annot_id: sure_of(0) for question, _ in reasons_of.items}
    path = write_answers(tmp_path / "answers.json", answers, given=2)
    with pytest.raises(RefusedError, match="it is a file of vcr-qar"):
        joint_results(path, reasons_of, {0: sure_of(0)})
