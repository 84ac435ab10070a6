"""Reading VQA v2's files, as published and spoilt."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.registry import TaskFiles, open_task
from vilbert.pipeline.tasks.vqa.files import ANNOTATIONS, PUBLISHED, QUESTIONS, read_questions
from vilbert.pipeline.tasks.vqa.task import VqaTask


def asked(number: int) -> dict[str, Any]:
    return {"image_id": number // 1000, "question": f" Is it {number}? ", "question_id": number}


def answered(number: int) -> dict[str, Any]:
    answers = [{"answer": "yes", "answer_confidence": "maybe", "answer_id": n} for n in range(1, 11)]
    return {
        "question_type": "is it", "multiple_choice_answer": "yes", "answers": answers, "image_id": number // 1000,
        "answer_type": "yes/no", "question_id": number,
    }  # fmt: skip


def write(folder: Path, split: str, questions: list[Any], annotations: list[Any] | None) -> None:
    name = PUBLISHED[split]
    head = {"info": {}, "license": {}, "data_subtype": name, "data_type": "mscoco"}
    (folder / QUESTIONS.format(name)).write_text(json.dumps({**head, "questions": questions}))
    if annotations is not None:
        (folder / ANNOTATIONS.format(name)).write_text(json.dumps({**head, "annotations": annotations}))


def test_questions_come_with_their_answers_in_the_order_of_the_file(tmp_path: Path) -> None:
    numbers = [42000, 1001, 42001]
    write(tmp_path, "val", [*map(asked, numbers)], [*map(answered, sorted(numbers))])
    found = read_questions(tmp_path, "val")
    assert [one.question_id for one in found] == numbers
    assert [one.image_id for one in found] == ["42", "1", "42"]
    assert found[0].text == "Is it 42000?"
    assert found[0].answers == ("yes",) * 10
    assert (found[0].answer_type, found[0].multiple_choice_answer) == ("yes/no", "yes")


def test_the_file_names_of_vqa_v1_and_ok_vqa_are_read(tmp_path: Path) -> None:
    write(tmp_path, "val", [asked(1000)], [answered(1000)])
    for name in (QUESTIONS, ANNOTATIONS):
        path = tmp_path / name.format(PUBLISHED["val"])
        path.rename(tmp_path / path.name.removeprefix("v2_"))
    assert [one.question_id for one in read_questions(tmp_path, "val")] == [1000]


def test_ids_may_be_texts_and_answers_few(tmp_path: Path) -> None:
    questions = [
        {"question_id": name, "image_id": f"img_{name}", "question": "What is it?"} for name in ("b", "a", "c")
    ]
    annotations = [
        {"question_id": "a", "answers": ["a dog", "cat", "a dog"]},
        {"question_id": "b", "image_id": "img_b", "answer": "red"},
        {"question_id": "c", "answers": [{"answer": "two", "raw_answer": "2"}], "answer_type": "number"},
    ]
    write(tmp_path, "val", questions, annotations)
    found = {one.question_id: one for one in read_questions(tmp_path, "val")}
    assert [found[name].answers for name in "abc"] == [("a dog", "cat", "a dog"), ("red",), ("two",)]
    assert [found[name].multiple_choice_answer for name in "abc"] == ["a dog", "red", "two"]
    assert [found[name].answer_type for name in "abc"] == ["", "", "number"]
    assert found["a"].image_id == "img_a"
    task = VqaTask("vqa", list(found.values()), ["dog", "cat", "red", "2"])
    targets = task.targets(range(3), [None] * 3)
    assert targets["label_scores"].amax(1).tolist() == [1.0, pytest.approx(2 / 3), 1.0]  # b, a, c
    metrics = task.figures({0: "red", 1: "dog", 2: "one"})
    assert metrics == {"accuracy": pytest.approx((1 + 2 / 3 + 0) / 3), "accuracy_number": 0.0}
    assert json.loads(task.results({0: "red", 1: "dog", 2: "one"})) == [
        {"question_id": "a", "answer": "dog"}, {"question_id": "b", "answer": "red"},
        {"question_id": "c", "answer": "one"},
    ]  # fmt: skip


def test_a_test_split_has_no_answers(tmp_path: Path) -> None:
    write(tmp_path, "test", [asked(1000)], None)
    assert read_questions(tmp_path, "test")[0].answers == ()


def test_minval_is_the_end_of_val_and_trainval_all_else(tmp_path: Path) -> None:
    train = [9_005_000, 9_001_000, 9_001_001]
    write(tmp_path, "train", [*map(asked, train)], [*map(answered, train)])
    val = [1000 * number for number in range(3010, 0, -1)]
    write(tmp_path, "val", [*map(asked, val)], [*map(answered, val)])
    minval = read_questions(tmp_path, "minval")
    assert [one.question_id for one in minval] == sorted(val)[-3000:]
    rest = [one.question_id for one in read_questions(tmp_path, "trainval")]
    assert rest == [*sorted(train), *sorted(val)[:10]]


def test_of_a_small_val_minval_is_the_last_tenth(tmp_path: Path) -> None:
    val = [1000 * number for number in range(1, 21)]
    write(tmp_path, "val", [*map(asked, val)], [*map(answered, val)])
    assert [one.question_id for one in read_questions(tmp_path, "minval")] == val[-2:]


@pytest.mark.parametrize(
    ("questions", "annotations", "said"),
    [
        ([asked(1), asked(1)], [answered(1)], "earlier entry"),
        ([asked(1)], [answered(1), answered(1)], "earlier entry"),
        ([asked(1), asked(2)], [answered(1)], "from different releases"),
        ([asked(1)], [answered(1), answered(2)], "no question 2"),
        ([{**asked(1), "question": 3}], [answered(1)], r"questions\[0\]"),
        ([asked(1)], [{**answered(1), "answers": []}], "0 answers in text among 0"),
        ([asked(1)], [{**answered(1), "answers": [*answered(1)["answers"][:9], {"answer": 3}]}], "9 answers in text"),
        ([asked(1)], [{**answered(1), "answers": [["yes"]] * 10}], "0 answers in text among 10"),
        ([asked(1)], [{**answered(1), "multiple_choice_answer": None}], "multiple_choice_answer is None"),
        ([asked(1)], [{**answered(1), "question_id": "1"}], "question 1 has no entry"),
        ([asked(1)], [{**answered(1), "question_id": ""}], r"annotations\[0\]: question_id is ''"),
        ([asked(1)], [{**answered(1), "question_id": 1.5}], r"annotations\[0\]: question_id is 1.5"),
        ([asked(1)], [{**answered(1), "image_id": 7}], "about image"),
        ([{"question_id": 1}], [answered(1)], "image_id|question"),
        (["nonsense"], [answered(1)], r"questions\[0\]: is 'nonsense'"),
        ([], [], "no questions"),
    ],
)
def test_damage_is_refused_by_file_and_entry(
    tmp_path: Path, questions: list[Any], annotations: list[Any], said: str
) -> None:
    write(tmp_path, "train", questions, annotations)
    with pytest.raises(RefusedError, match=said) as refused:
        read_questions(tmp_path, "train")
    assert str(tmp_path) in str(refused.value)


def test_a_missing_file_and_a_file_cut_off_are_said(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="annotations"):
        read_questions(tmp_path, "train")
    write(tmp_path, "train", [asked(1)], [answered(1)])
    path = tmp_path / QUESTIONS.format("train2014")
    path.write_text(path.read_text()[:-10])
    with pytest.raises(RefusedError, match="questions"):
        read_questions(tmp_path, "train")


def test_an_unknown_split_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="minval"):
        read_questions(tmp_path, "dev")


def test_a_question_in_train_and_val_is_said_of_trainval(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write(tmp_path, split, [asked(7000)], [answered(7000)])
    with pytest.raises(RefusedError, match="question 7000 appears in train and in val"):
        read_questions(tmp_path, "trainval")


def test_no_json_and_no_list_are_said(tmp_path: Path) -> None:
    write(tmp_path, "test", [asked(1)], None)
    path = tmp_path / QUESTIONS.format(PUBLISHED["test"])
    for content, said in ((b"[1]", "no list of questions"), (b"\xff\xfe{", "not valid JSON"), (b"{}", "no list")):
        path.write_bytes(content)
        with pytest.raises(RefusedError, match=said) as refused:
            read_questions(tmp_path, "test")
        assert str(path) in str(refused.value)


def test_equal_texts_are_held_once(tmp_path: Path) -> None:
    numbers = [1000, 2000]
    rows = [{**answered(number), "answers": [{"answer": "two dogs", "answer_id": 1}] * 10} for number in numbers]
    write(tmp_path, "val", [{**asked(number), "question": "What is it?"} for number in numbers], rows)
    first, second = read_questions(tmp_path, "val")
    assert all(answer is first.answers[0] for answer in first.answers + second.answers)
    assert first.text is second.text
    assert first.answer_type is second.answer_type


def test_the_answers_of_trainval_are_counted_over_what_it_holds_out_too(small: Path, tmp_path: Path) -> None:
    """As the published 3,129 were, over all of train and val."""
    shutil.copytree(small / "vqa", tmp_path / "vqa")
    path = tmp_path / "vqa" / "v2_mscoco_val2014_annotations.json"
    document = json.loads(path.read_text())
    for row in sorted(document["annotations"], key=lambda row: row["question_id"])[-2:]:  # minval is the last tenth
        row["multiple_choice_answer"] = "perhaps"
    path.write_text(json.dumps(document))
    files = TaskFiles(folder=tmp_path / "vqa", seed=0, least_answers=2)
    task = open_task("vqa", files, "trainval", like=None)
    assert isinstance(task, VqaTask)
    assert set(task.labels) == {"yes", "no", "perhaps"}
    assert "perhaps" not in {question.multiple_choice_answer for question in task.items}
