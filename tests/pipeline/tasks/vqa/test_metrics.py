"""The official accuracy, against what the official code gave."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.tasks.vqa.files import Question
from vilbert.pipeline.tasks.vqa.metrics import accuracy, question_accuracy, results

GOLDEN: list[dict[str, Any]] = json.loads((Path(__file__).parents[1] / "golden/vqa_accuracy.json").read_text())["rows"]


def question(number: int, answers: tuple[str, ...], kind: str) -> Question:
    return Question(
        question_id=number, image_id="1", text="?", answers=answers, answer_type=kind, multiple_choice_answer=answers[0]
    )


def test_every_golden_answer_is_scored_as_by_the_official_code() -> None:
    assert len(GOLDEN) > 100
    assert len({row["accuracy"] for row in GOLDEN}) > 4
    for row in GOLDEN:
        assert question_accuracy(row["answer"], row["truths"]) == row["accuracy"], row


@given(st.integers(0, 10))
def test_leaving_one_out_gives_the_soft_scores_of_training(matches: int) -> None:
    truths = ["cat"] * matches + ["dog"] * (10 - matches)
    expected = {0: 0.0, 1: 0.3, 2: 0.6, 3: 0.9}.get(matches, 1.0)
    assert question_accuracy("cat", truths) == pytest.approx(expected)


def test_nothing_is_normalised_where_all_people_agree() -> None:
    assert question_accuracy("a dog", ["a dog"] * 10) == 1
    assert question_accuracy("dog", ["a dog"] * 10) == 0
    assert question_accuracy("dog", ["a dog"] * 9 + ["cat"]) == 1


def test_types_have_figures_of_their_own_and_unanswered_questions_none() -> None:
    questions = [
        question(1, ("yes",) * 10, "yes/no"), question(2, ("2",) * 10, "number"), question(3, ("red",) * 10, "other")
    ]  # fmt: skip
    found = accuracy(questions, {1: "yes", 2: "3"})
    assert found == {"accuracy": 0.5, "accuracy_yes_no": 1.0, "accuracy_number": 0.0}


def test_results_are_in_the_order_of_the_questions() -> None:
    assert results({7: "no", 3: "yes"}) == [{"question_id": 3, "answer": "yes"}, {"question_id": 7, "answer": "no"}]
