"""GQA's files as published and spoilt, and its file of results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.gqa.files import GqaQuestion, build_gqa_vocabulary, gqa_results, read_gqa


def asked(answer: str | None = "no", structural: str = "verify") -> dict[str, Any]:
    row = {
        "semantic": [{"operation": "select", "dependencies": [], "argument": "sky (2486325)"}],
        "entailed": ["02930160"], "equivalent": ["02930152"], "question": " Is the sky dark?", "imageId": "2354786",
        "isBalanced": True, "groups": {"global": "weather", "local": "06-sky_dark"}, "answer": answer,
        "semanticStr": "select: sky (2486325)->verify color: dark [0]",
        "annotations": {"answer": {}, "question": {"2": "2486325"}, "fullAnswer": {"2": "2486325"}},
        "types": {"detailed": "verifyAttr", "semantic": "attr", "structural": structural},
        "fullAnswer": "No, the sky is not dark.",
    }  # fmt: skip
    return row if answer is not None else {name: row[name] for name in ("question", "imageId", "isBalanced")}


def write(folder: Path, split: str, content: Any) -> Path:
    path = folder / f"{split}_balanced_questions.json"
    path.write_text(json.dumps(content))
    return path


def question(number: int, answer: str | None) -> GqaQuestion:
    return GqaQuestion(question_id=f"{number:08}", image_id="1", text="?", answer=answer)


@pytest.mark.parametrize("split", ["train", "val", "testdev"])
def test_questions_come_in_the_order_of_the_file_with_the_zeros_of_their_ids(tmp_path: Path, split: str) -> None:
    write(tmp_path, split, {"07333408": asked("pipe", "query"), "02930152": asked()})
    assert read_gqa(tmp_path, split) == [
        GqaQuestion(
            question_id=number, image_id="2354786", text="Is the sky dark?", answer=answer, kinds=kinds, group="weather"
        )
        for number, answer, kinds in (
            ("07333408", "pipe", ("open", "query", "attr")), ("02930152", "no", ("binary", "verify", "attr"))
        )
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("split", "file"), [("test", "test_balanced_questions.json"), ("submission", "submission_all_questions.json")]
)
def test_secret_splits_have_no_answers_and_no_types(tmp_path: Path, split: str, file: str) -> None:
    (tmp_path / file).write_text(json.dumps({"201971873": asked(None)}))
    (found,) = read_gqa(tmp_path, split)
    assert (found.answer, found.kinds, found.group) == (None, (), None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"1": asked(None)}, "question 1: answer is missing"),
        ({"1": asked(), "2": {**asked(), "imageId": 7}}, "question 2: imageId is 7"),
        ({"1": {**asked(), "question": None}}, "question 1: question is None"),
        ({"1": {**asked(), "answer": True}}, "question 1: answer is True"),
        ({"1": {**asked(), "types": "query"}}, "question 1: types"),
        ({"1": {**asked(), "types": {}}}, "question 1: structural is missing"),
        ({"1": {**asked(), "groups": {"global": 3}}}, "question 1: global is 3"),
        ({"1": {**asked(), "groups": "weather"}}, "question 1: groups is 'weather'"),
        ({"1": "nonsense"}, "question 1: is 'nonsense'"),
        ([asked()], "not a JSON object"),
        ({}, "no questions"),
    ],
)
def test_damage_is_refused_by_file_and_question(tmp_path: Path, content: Any, said: str) -> None:
    path = write(tmp_path, "val", content)
    with pytest.raises(RefusedError, match=said) as refused:
        read_gqa(tmp_path, "val")
    assert str(path) in str(refused.value)


@pytest.mark.parametrize(
    ("entailed", "said"),
    [
        ("02930160", "question 2: entailed is '02930160', not a list"),
        ({"02930160": True}, "question 2: entailed is {'02930160': True}, not a list"),
        ([2930160], r"question 2: entailed is \[2930160\], not a list of question ids"),
    ],
)
def test_damaged_entailments_are_refused_by_file_and_question(tmp_path: Path, entailed: Any, said: str) -> None:
    path = tmp_path / "val_all_questions.json"
    path.write_text(json.dumps({"1": asked(), "2": {**asked(), "entailed": entailed}}))
    with pytest.raises(RefusedError, match=said) as refused:
        read_gqa(tmp_path, "val_all")
    assert str(path) in str(refused.value)


def test_a_file_cut_off_a_missing_file_and_an_unknown_split_are_said(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="train_balanced_questions"):
        read_gqa(tmp_path, "train")
    path = write(tmp_path, "train", {"1": asked()})
    path.write_text(path.read_text()[:-9])
    with pytest.raises(RefusedError, match="not valid JSON"):
        read_gqa(tmp_path, "train")
    with pytest.raises(RefusedError, match="testdev"):
        read_gqa(tmp_path, "trainval")


@given(st.lists(st.sampled_from(["yes", "no", "t-shirt", "Yes", None]), max_size=40), st.integers(1, 4))
def test_a_vocabulary_holds_frequent_answers_as_they_stand(chosen: list[str | None], least: int) -> None:
    questions = [question(number, answer) for number, answer in enumerate(chosen)]
    found = build_gqa_vocabulary(questions, least=least)
    assert set(found) == {answer for answer in chosen if answer is not None and chosen.count(answer) >= least}
    assert list(found) == sorted(set(found), key=lambda answer: (-chosen.count(answer), answer))
    assert found == build_gqa_vocabulary(reversed(questions), least=least)


def test_results_are_in_the_order_of_the_questions() -> None:
    assert gqa_results({"2": "no", "01": "yes"}) == [
        {"questionId": "01", "prediction": "yes"}, {"questionId": "2", "prediction": "no"}
    ]  # fmt: skip
