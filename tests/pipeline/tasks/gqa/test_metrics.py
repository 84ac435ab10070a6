"""GQA's figures against the official code's, with what it cannot do: answers that are missing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.gqa.files import GqaQuestion, read_gqa
from vilbert.pipeline.tasks.gqa.metrics import gqa_figures, read_choices
from vilbert.pipeline.tasks.gqa.task import GqaTask, open_task
from vilbert.pipeline.tasks.registry import TaskFiles

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden/gqa_figures.json").read_text(encoding="utf-8"))
SCORES = GOLDEN["scores"]
LABELS = tuple(sorted({*GOLDEN["predictions"].values()}))
CHI_SQUARE = "distribution"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with the golden questions and choices under their published names."""
    (tmp_path / "val_all_questions.json").write_text(json.dumps(GOLDEN["questions"]))
    balanced = {number: row for number, row in GOLDEN["questions"].items() if row["isBalanced"]}
    (tmp_path / "val_balanced_questions.json").write_text(json.dumps(balanced))
    (tmp_path / "val_choices.json").write_text(json.dumps(GOLDEN["choices"]))
    return tmp_path


def official(*left_out: str) -> dict[str, float]:
    """Return the official figures by our names."""
    found = {
        "accuracy": SCORES["accuracy"],
        "accuracy_binary": SCORES["binary"],
        "accuracy_open": SCORES["open"],
        **{f"accuracy_{kind}": value for kind, value in SCORES["accuracyPerStructuralType"].items()},
        **{f"accuracy_{kind}": value for kind, value in SCORES["accuracyPerSemanticType"].items()},
        **{name: SCORES[name] for name in ("consistency", "validity", "plausibility")},
    }
    shares = {name: value / 100 for name, value in found.items()} | {CHI_SQUARE: SCORES[CHI_SQUARE]}
    return {name: value for name, value in shares.items() if name not in left_out}


def figures(folder: Path, split: str) -> dict[str, float]:
    """Return the figures of the golden predictions as `vilbert evaluate gqa` has them."""
    task = open_task("gqa", TaskFiles(folder=folder, seed=0, labels=LABELS), split, like=None)
    predictions = GOLDEN["predictions"]
    return task.figures({number: predictions[item.question_id] for number, item in enumerate(task.items)})


def test_figures_are_those_of_the_official_code(folder: Path) -> None:
    assert figures(folder, "val_all") == pytest.approx(official())


def test_balanced_questions_give_all_figures_but_consistency(folder: Path) -> None:
    assert figures(folder, "val") == pytest.approx(official("consistency"))


def test_without_the_choices_there_is_neither_validity_nor_plausibility(folder: Path) -> None:
    (folder / "val_choices.json").unlink()
    assert figures(folder, "val_all") == pytest.approx(official("validity", "plausibility"))


def test_choices_are_read_for_an_evaluation_and_not_while_training(folder: Path) -> None:
    (folder / "val_choices.json").write_text("spoilt")
    trained = GqaTask("gqa", read_gqa(folder, "val"), LABELS)
    held_out = open_task("gqa", TaskFiles(folder=folder, seed=0), "val", like=trained)
    assert held_out.figures({0: LABELS[0]}).keys() >= {"accuracy"}
    with pytest.raises(RefusedError, match=r"val_choices\.json"):
        figures(folder, "val")


def question(number: int, answer: str | None, **more: Any) -> GqaQuestion:
    return GqaQuestion(question_id=str(number), image_id="1", text="?", answer=answer, **more)


def test_secret_and_unanswered_questions_do_not_count() -> None:
    questions = [question(1, "t-shirt"), question(2, "cat"), question(3, None), question(4, "dog")]
    assert gqa_figures(questions, {"1": "t-shirt", "2": "a cat", "3": "x"}) == {"accuracy": 0.5}
    assert gqa_figures(questions[2:3], {"3": "x"}) == {}


def test_consistency_is_of_the_entailed_questions_that_were_asked() -> None:
    questions = [question(1, "yes", entailed=("1", "2", "3", "9")), question(2, "no", balanced=False), question(3, "a")]
    assert gqa_figures(questions, {"1": "yes", "2": "no", "3": "b"})["consistency"] == 0.5
    assert gqa_figures(questions, {"1": "yes", "2": "no"})["consistency"] == 1
    assert "consistency" not in gqa_figures(questions, {"1": "no", "2": "no"})


def test_choices_of_another_split_are_refused_before_anything_is_answered(folder: Path) -> None:
    (folder / "val_choices.json").write_text('{"1": {"valid": [], "plausible": []}}')
    with pytest.raises(RefusedError, match=r"val_choices\.json: question 0\d+: has no choices"):
        open_task("gqa", TaskFiles(folder=folder, seed=0, labels=LABELS), "val", like=None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"1": {"valid": ["a"]}}, "question 1: has no list of answers under 'plausible'"),
        ({"1": {"valid": [1], "plausible": []}}, "question 1: has no list of answers under 'valid'"),
        ({"1": ["a"]}, "question 1: has no list of answers under 'valid'"),
        ([], "not a JSON object"),
    ],
)
def test_damaged_choices_are_refused_by_file_and_question(tmp_path: Path, content: Any, said: str) -> None:
    path = tmp_path / "val_choices.json"
    path.write_text(json.dumps(content))
    with pytest.raises(RefusedError, match=said) as refused:
        read_choices(path, [question(1, "a")])
    assert str(path) in str(refused.value)
