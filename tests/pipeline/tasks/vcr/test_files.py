import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.finetune.run import card_of, open_split
from vilbert.pipeline.finetune.settings import NamedPeopleFinetuneSettings
from vilbert.pipeline.shapes.write import ShapesSettings, write_shapes
from vilbert.pipeline.tasks.registry import TaskFiles, open_task
from vilbert.pipeline.tasks.task_card import read_task_card, write_task_cards
from vilbert.pipeline.tasks.vcr.files import (
    NAMES,
    VcrQuestion,
    load_names,
    object_names,
    q_ar_accuracy,
    read_vcr,
    submission_csv,
    vcr_boxes,
)

IMAGE = "lsmdc_3023_DISTRICT_9/3023_DISTRICT_9_01.02.02.421-01.02.07.319@0"


def published(**changes: Any) -> dict[str, Any]:
    """Return a line as published; the dog is object 2, and a chair is referred to by nothing."""
    row = {
        "movie": "3023_DISTRICT_9",
        "objects": ["person", "person", "dog", "diningtable", "dog", "chair"],
        "interesting_scores": [1, 0],
        "answer_likelihood": "likely",
        "img_fn": f"{IMAGE}.jpg",
        "metadata_fn": f"{IMAGE}.json",
        "answer_orig": "1 sees 3.",
        "question_orig": "Why do 1 and 2 stand by 3 ?",
        "rationale_orig": "2 is old.",
        "question": ["Why", "do", [0, 1], "stand", "by", [2], "?"],
        "answer_match_iter": [0, 1, 2, 3],
        "answer_sources": [3, 4, 5, 6],
        "answer_choices": [[[0], "sees", [2], "."], [[1], "'", "s", "late", "."], ["No", "."], [[4], "barks", "."]],
        "answer_label": 0,
        "rationale_choices": [[[1], "is", "old", "."], [[3], "."], ["Yes", "."], ["The", "dog", "and", [2], "."]],
        "rationale_sources": [1, 2, 3, 4],
        "rationale_match_iter": [0, 1, 2, 3],
        "rationale_label": 3,
        "img_id": "train-0",
        "question_number": 0,
        "annot_id": "train-0",
        "match_fold": "train-0",
        "match_index": 0,
    }
    return row | changes


def write(folder: Path, *rows: Any, split: str = "train") -> Path:
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def one(folder: Path, row: dict[str, Any], seed: int = 0, split: str = "train") -> VcrQuestion:
    return read_vcr(write(folder, row, split=split), split, seed=seed, names=["Pat", "Kim"])[0]


def refusal(folder: Path, split: str = "train") -> str:
    with pytest.raises(RefusedError) as caught:
        read_vcr(folder, split, seed=0)
    return str(caught.value)


def texts(question: VcrQuestion) -> list[str]:
    return [question.question, *question.answers, *question.rationales]


def test_words_are_joined_and_objects_named(tmp_path: Path) -> None:
    question = one(tmp_path, published())
    first, second = object_names(["person", "person"], image_id=IMAGE, seed=0, names=["Pat", "Kim"])
    assert question.question == f"Why do {first} {second} stand by dog ?"
    assert question.answers == (f"{first} sees dog .", f"{second} ' s late .", "No .", "dog barks .")
    assert question.rationales == (f"{second} is old .", "diningtable .", "Yes .", "The dog and dog .")


def test_a_question_keeps_its_ids_files_and_labels(tmp_path: Path) -> None:
    question = one(tmp_path, published())
    assert (question.annot_id, question.img_fn, question.metadata_fn) == ("train-0", f"{IMAGE}.jpg", f"{IMAGE}.json")
    assert (question.answer_label, question.rationale_label) == (0, 3)


def test_an_image_is_named_by_its_path_without_suffix(tmp_path: Path) -> None:
    assert one(tmp_path, published()).image_id == IMAGE


def test_tags_are_the_objects_referred_to_in_order(tmp_path: Path) -> None:
    question = one(tmp_path, published())
    assert [[tag.object for tag in tags] for tags in question.tags] == [
        *([0, 1, 2], [0, 2], [1], [], [4]),
        *([1], [3], [], [2]),
    ]


def test_tags_mark_the_words_of_their_objects(tmp_path: Path) -> None:
    row = published()
    called = object_names(row["objects"], image_id=IMAGE, seed=0, names=["Pat", "Kim"])
    question = one(tmp_path, row)
    for text, tags in zip(texts(question), question.tags, strict=True):
        assert [text[tag.start : tag.end] for tag in tags] == [called[tag.object] for tag in tags]
    assert question.tags[8][0].start == len("The dog and ")  # not the dog that no object stands for


def test_an_empty_list_of_objects_adds_no_word(tmp_path: Path) -> None:
    assert one(tmp_path, published(question=["Why", [], "?"])).question == "Why ?"


def test_lone_surrogates_are_replaced_without_shifting_tags(tmp_path: Path) -> None:
    question = one(tmp_path, published(question=["a\ud83d", [2]]))
    assert question.question == "a\ufffd dog"
    assert question.tags[0] == ((2, 3, 6),)


objects = st.lists(st.sampled_from(["person", "dog"]), max_size=40)


@given(objects, st.integers(0, 2**40), st.text(st.characters(codec="utf-8")))
def test_people_of_an_image_differ_as_long_as_there_are_names(kinds: list[str], seed: int, image_id: str) -> None:
    called = object_names(kinds, image_id=image_id, seed=seed, names=NAMES)
    people = [name for name, kind in zip(called, kinds, strict=True) if kind == "person"]
    for start in range(0, len(people), len(NAMES)):
        turn = people[start : start + len(NAMES)]
        assert len(set(turn)) == len(turn)
    assert set(people) <= set(NAMES)


@given(objects)
def test_other_objects_keep_their_class(kinds: list[str]) -> None:
    called = object_names(kinds, image_id="a", seed=0, names=NAMES)
    assert [name == "dog" for name in called] == [kind == "dog" for kind in kinds]


@given(objects, objects)
def test_a_name_depends_on_no_later_object(kinds: list[str], more: list[str]) -> None:
    longer = object_names(kinds + more, image_id="a", seed=3, names=NAMES)
    assert longer[: len(kinds)] == object_names(kinds, image_id="a", seed=3, names=NAMES)


def test_names_are_all_about_as_frequent() -> None:
    drawn = [object_names(["person"], image_id=str(i), seed=0, names=NAMES)[0] for i in range(2800)]
    assert all(140 < drawn.count(name) < 260 for name in NAMES)  # 200 expected, deviation 13.6


def test_names_that_stand_twice_are_drawn_once() -> None:
    assert sorted(object_names(["person"] * 2, image_id="a", seed=0, names=["Pat", "Pat", "Kim"])) == ["Kim", "Pat"]


GOLDEN = ("Casey", "dog", "Riley", "Avery")


def test_names_stay_what_they_are() -> None:
    assert object_names(["person", "dog", "person", "person"], image_id=IMAGE, seed=7, names=NAMES) == GOLDEN


def test_another_process_draws_the_same_names() -> None:
    code = (
        "from vilbert.pipeline.tasks.vcr.files import NAMES, object_names;"
        f"print(*object_names(['person', 'dog', 'person', 'person'], image_id={IMAGE!r}, seed=7, names=NAMES))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert tuple(done.stdout.split()) == GOLDEN


def test_seeds_and_images_give_other_names() -> None:
    drawn = {
        object_names(["person"] * 5, image_id=image, seed=seed, names=NAMES) for image in "ab" for seed in range(2)
    }
    assert len(drawn) == 4


def test_secret_labels_are_none_in_test_alone(tmp_path: Path) -> None:
    row = published()
    del row["answer_label"], row["rationale_label"]
    question = one(tmp_path, row, split="test")
    assert (question.answer_label, question.rationale_label) == (None, None)
    assert "val.jsonl:1: answer_label is missing" in refusal(write(tmp_path, row, split="val"), "val")


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"annot_id": 3}, "annot_id is 3, not text"),
        ({"img_fn": None}, "img_fn is None, not text"),
        ({"metadata_fn": []}, "metadata_fn is [], not text"),
        ({"objects": ["dog", 1]}, "objects is ['dog', 1], not a list of text"),
        ({"objects": []}, "[0, 1] refers to no object; there are 0"),
        ({"question": "Why?"}, "question is 'Why?', not a list"),
        ({"question": ["Why", 3]}, "3 is neither a word nor a list of objects"),
        ({"question": [[6]]}, "[6] refers to no object; there are 6, numbered from 0"),
        ({"question": [[-1]]}, "[-1] refers to no object"),
        ({"question": [[True]]}, "[True] refers to no object"),
        ({"question": [["dog"]]}, "['dog'] refers to no object"),
        ({"answer_choices": [["a"]] * 3}, "answer_choices is [['a'], ['a'], ['a']], not 4 lists of words"),
        ({"rationale_choices": ["a", "b", "c", "d"]}, "rationale_choices is ['a', 'b', 'c', 'd'], not 4 lists"),
        ({"answer_label": 4}, "answer_label is 4, not 0 to 3"),
        ({"rationale_label": "1"}, "rationale_label is '1', not a whole number"),
        ({"annot_id": "train-0"}, "annot_id train-0 appears in an earlier line too"),
    ],
)
def test_a_damaged_field_is_named_with_its_line(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    write(tmp_path, published(), published(annot_id="train-1") | changes)
    assert f"train.jsonl:2: {what}" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["annot_id", "img_fn", "metadata_fn", "objects", "question", "answer_choices"])
def test_a_missing_field_is_named_with_its_line(tmp_path: Path, name: str) -> None:
    row = published()
    del row[name]
    assert f"train.jsonl:1: {name} is missing" in refusal(write(tmp_path, row))


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    assert "train.jsonl: contains no entry" in refusal(write(tmp_path))


def test_no_names_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="names: the list of names"):
        read_vcr(write(tmp_path, published()), "train", seed=0, names=[])


def test_names_are_the_column_of_the_published_table(tmp_path: Path) -> None:
    path = tmp_path / "unisex_names_table.csv"
    path.write_text('"",name,total,gap\n"1",Casey,176544.3,0.18\n"2","Riley",154860.6,0.01\n\n"3",Casey,1,0\n')
    assert load_names(path) == ("Casey", "Riley")


def test_people_are_called_by_the_names_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "names.csv"
    path.write_text("name\nZaphod\n")
    settings = NamedPeopleFinetuneSettings(
        data=("features",), task="vcr-qa", init_from="none", model="shapes", tokenizer="new", names=path,
        annotations=write(tmp_path, published()), output=tmp_path / "run",
    )  # fmt: skip
    task = open_split(settings, "train", like=None)
    assert "Zaphod" in str(task.rows(0, np.uint64(0)).texts)
    write_task_cards(tmp_path, [card_of(settings, task, ())])
    card = read_task_card(tmp_path)  # and so the model's evaluations know them
    files = TaskFiles(folder=tmp_path, seed=card.seed, names=card.names)
    assert open_task("vcr-qa", files, "train", like=None).items == task.items


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "has no column `name`"),
        (b"Casey\nRiley\n", "has no column `name`"),
        (b"x,name\n", "has no names"),
        (b"x,name\n1\n", "row 2 has no name"),
        (b"x,name\n1, \n", "row 2 has no name"),
        (b"x,name\n1,\xff\n", "not a CSV file in UTF-8"),
        (b'x,name\n1,"a\n', "not a CSV file in UTF-8"),
    ],
)
def test_a_damaged_table_of_names_is_refused(tmp_path: Path, data: bytes, what: str) -> None:
    (tmp_path / "names.csv").write_bytes(data)
    with pytest.raises(RefusedError) as caught:
        load_names(tmp_path / "names.csv")
    assert what in str(caught.value)


def metadata(**changes: Any) -> dict[str, Any]:
    boxes = [[1.5, 2.0, 30.0, 40.0, 0.98], [0.0, 0.0, 10.0, 10.0, 0.7]]
    return {"boxes": boxes, "segms": [[], []], "names": ["person", "dog"], "width": 1920, "height": 797} | changes


def test_boxes_come_without_their_scores(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(json.dumps(metadata()))
    boxes, names, width, height = vcr_boxes(tmp_path, "m.json")
    assert boxes.tolist() == [[1.5, 2.0, 30.0, 40.0], [0.0, 0.0, 10.0, 10.0]]
    assert boxes.dtype == np.float32
    assert (names, width, height) == (("person", "dog"), 1920, 797)


def test_an_image_may_have_no_objects(tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(json.dumps(metadata(boxes=[], names=[])))
    assert vcr_boxes(tmp_path, "m.json").boxes.shape == (0, 4)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"names": ["dog"]}, "has 2 boxes, 1 names"),
        ({"names": ["dog", 3]}, "names is ['dog', 3], not a list of text"),
        ({"width": 0}, "has 2 boxes, 2 names and a size of 0x797"),
        ({"height": 7.5}, "height is 7.5, not a whole number"),
        ({"boxes": None}, "boxes is None, not a list"),
        ({"boxes": [[1, 2, 3, 4, 1], [5, 2, 3, 4, 1]]}, "boxes[1] is [5, 2, 3, 4, 1], not"),
        ({"boxes": [[1, 2, 3], [1, 2, 3, 4]]}, "boxes[0] is [1, 2, 3], not"),
        ({"boxes": [[1, 2, 3, 4], 7]}, "boxes[1] is 7, not"),
        ({"boxes": [[0.1, 0.2, 0.5, 1, 1], [0, 0, 1, 1, 1]]}, "all boxes lie within 0..1"),
    ],
)
def test_damaged_metadata_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    (tmp_path / "m.json").write_text(json.dumps(metadata(**changes)))
    with pytest.raises(RefusedError) as caught:
        vcr_boxes(tmp_path, "m.json")
    assert f"{tmp_path / 'm.json'}: {what}" in str(caught.value)


@pytest.mark.parametrize(("text", "what"), [("{", "not valid JSON"), ("[]", "not a JSON object"), ("", "not valid")])
def test_metadata_that_is_no_object_is_refused(tmp_path: Path, text: str, what: str) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(RefusedError, match=what):
        vcr_boxes(tmp_path, "m.json")


# As models/README.md of rowanz/r2c has it.
HEADER = (
    "annot_id,answer_0,answer_1,answer_2,answer_3,"
    "rationale_conditioned_on_a0_0,rationale_conditioned_on_a0_1,rationale_conditioned_on_a0_2,"
    "rationale_conditioned_on_a0_3,rationale_conditioned_on_a1_0,rationale_conditioned_on_a1_1,"
    "rationale_conditioned_on_a1_2,rationale_conditioned_on_a1_3,rationale_conditioned_on_a2_0,"
    "rationale_conditioned_on_a2_1,rationale_conditioned_on_a2_2,rationale_conditioned_on_a2_3,"
    "rationale_conditioned_on_a3_0,rationale_conditioned_on_a3_1,rationale_conditioned_on_a3_2,"
    "rationale_conditioned_on_a3_3"
)


def test_the_submission_has_the_columns_of_the_server() -> None:
    numbers = np.arange(20, dtype=np.float32)
    text = submission_csv(["test-0"], numbers[None, :4], numbers[None, 4:].reshape(1, 4, 4))
    assert text == f"{HEADER}\ntest-0,{','.join(map(str, range(20)))}\n"


def test_probabilities_come_back_as_they_were() -> None:
    draw = np.random.default_rng(0)
    answers, rationales = draw.random((50, 4), np.float32), draw.random((50, 4, 4), np.float32)
    ids = [f"test-{i}" for i in range(50)]
    rows = list(csv.DictReader(io.StringIO(submission_csv(ids, answers, rationales))))
    assert [row["annot_id"] for row in rows] == ids
    assert all(np.float32(rows[q][f"answer_{a}"]) == answers[q, a] for q in range(50) for a in range(4))
    for q, a, r in np.ndindex(50, 4, 4):
        assert np.float32(rows[q][f"rationale_conditioned_on_a{a}_{r}"]) == rationales[q, a, r]


@pytest.mark.parametrize(
    ("ids", "answers", "rationales"),
    [
        (["a"], np.ones((2, 4)), np.ones((2, 4, 4))),
        (["a"], np.ones((1, 4)), np.ones((1, 4))),
        (["a", "a"], np.ones((2, 4)), np.ones((2, 4, 4))),
        (["a"], np.full((1, 4), np.nan), np.ones((1, 4, 4))),
    ],
)
def test_a_submission_that_the_server_would_refuse_is_not_made(ids: list[str], answers: Any, rationales: Any) -> None:
    with pytest.raises(ValueError, match=r"probabilities|twice"):
        submission_csv(ids, answers, rationales)


def literal_accuracy(answers: Any, rationales: Any, labels: list[int], reasons: list[int]) -> tuple[float, ...]:
    """Return the three shares question by question, as the server's evaluator describes them."""
    hits = [
        (int(np.argmax(a)) == label, int(np.argmax(r[label])) == reason)
        for a, r, label, reason in zip(answers, rationales, labels, reasons, strict=True)
    ]
    columns = ([a for a, _ in hits], [r for _, r in hits], [a and r for a, r in hits])
    return tuple(sum(column) / len(hits) for column in columns)


@given(st.integers(1, 30), st.integers(0, 2**32))
def test_accuracies_are_those_of_the_evaluator(count: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    answers, rationales = draw.integers(0, 3, (count, 4)), draw.integers(0, 3, (count, 4, 4))  # with ties
    labels, reasons = draw.integers(0, 4, count), draw.integers(0, 4, count)
    found = q_ar_accuracy(answers, rationales, labels, reasons)
    assert found == pytest.approx(literal_accuracy(answers, rationales, labels.tolist(), reasons.tolist()))
    assert q_ar_accuracy(answers, rationales[np.arange(count), labels], labels, reasons) == found


def test_no_questions_give_no_accuracy() -> None:
    assert q_ar_accuracy(np.zeros((0, 4)), np.zeros((0, 4)), [], []) == (0, 0, 0)


def test_questions_of_shapes_speak_of_the_objects_in_their_metadata(tmp_path: Path) -> None:
    output = tmp_path / "shapes"
    assert write_shapes(ShapesSettings(output=output, scenes=20, seed=2)) == 0  # a seed with questions in every split
    scenes = {str(scene["image_id"]): scene for scene in map(json.loads, (output / "scenes.jsonl").open())}
    for split in ("train", "val", "test"):
        questions = read_vcr(output / "vcr1annots", split, seed=0)
        assert questions
        for question in questions:
            scene = scenes[question.image_id]
            assert (scene["path"], scene["split"]) == (question.img_fn, split)
            assert (question.answer_label is None) == (split == "test")
            boxes = vcr_boxes(output, question.metadata_fn)
            assert boxes.boxes.tolist() == [item["box_xyxy"] for item in scene["objects"]]
            for text, tags in zip(texts(question), question.tags, strict=True):
                assert [text[tag.start : tag.end] for tag in tags] == [boxes.names[tag.object] for tag in tags]


def test_accuracies_are_those_of_the_official_code() -> None:
    golden = json.loads((Path(__file__).parents[1] / "golden/vcr_accuracy.json").read_text(encoding="utf-8"))
    for case in golden["cases"]:
        probs, labels = np.array(case["probabilities"]), np.array(case["labels"])
        found = q_ar_accuracy(probs[:, :4], probs[:, 4:].reshape(-1, 4, 4), labels[:, 0], labels[:, 1])
        assert found == pytest.approx((case["q_a"], case["qa_r"], case["q_ar"]))
