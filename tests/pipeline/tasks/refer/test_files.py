import json
import os
import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shapes.write import ShapesSettings, write_shapes
from vilbert.pipeline.tasks.refer.files import Expression, read_refer, refs_to_jsonl


def ref(number: int = 1, split: str = "train", **changes: Any) -> dict[str, Any]:
    """Return an entry of refs as published, about object 10 x number in image 100 x number."""
    sent_ids = [number * 10, number * 10 + 1]
    row = {
        "sent_ids": sent_ids,
        "file_name": f"COCO_train2014_{number * 100:012d}_{number}.jpg",
        "ann_id": number * 10,
        "ref_id": number,
        "image_id": number * 100,
        "split": split,
        "sentences": [
            {"tokens": ["the", "man"], "raw": "The man, ", "sent_id": sent_ids[0], "sent": "the man"},
            {"tokens": ["caf"], "raw": "café's left", "sent_id": sent_ids[1], "sent": "caf"},
        ],
        "category_id": 1,
    }
    return row | changes


def annotation(number: int = 1, **changes: Any) -> dict[str, Any]:
    """Return the object that `ref` is about as instances.json has it."""
    row = {
        "segmentation": [[0.0, 0.0, 1.0, 1.0, 2.0, 0.0]],
        "area": 12.5,
        "iscrowd": 0,
        "image_id": number * 100,
        "bbox": [1.5, 2, 30.25, 4],
        "category_id": 1,
        "id": number * 10,
    }
    return row | changes


def write(folder: Path, refs: Any, annotations: Any = None, name: str = "refs(umd).json") -> Path:
    path = folder / name
    if name.endswith(".p"):
        path.write_bytes(python2(refs) + b".")
    elif name.endswith(".jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in refs))
    else:
        path.write_text(json.dumps(refs))
    found = [annotation(1), annotation(2), annotation(3)] if annotations is None else annotations
    document = {"info": {}, "images": [], "licenses": [], "categories": [], "annotations": found}
    (folder / "instances.json").write_text(json.dumps(document))
    return folder


def python2(value: Any) -> bytes:
    """Return a value as Python 2 pickles it in protocol 0, with byte strings for text."""
    if isinstance(value, dict):
        return b"(d" + b"".join(python2(key) + python2(item) + b"s" for key, item in value.items())
    if isinstance(value, list):
        return b"(l" + b"".join(python2(item) + b"a" for item in value)
    if isinstance(value, str):
        return b"S" + repr(value.encode("latin1"))[1:].encode("ascii") + b"\n"
    return b"I%d\n" % value


def refusal(folder: Path, split: str = "train") -> str:
    with pytest.raises(RefusedError) as caught:
        read_refer(folder, split)
    return str(caught.value)


@pytest.mark.parametrize("name", ["refs(unc).p", "refs(umd).json", "refs(google).jsonl"])
def test_every_form_gives_the_phrases_as_written_with_the_corners_of_their_object(tmp_path: Path, name: str) -> None:
    write(tmp_path, [ref(2, "val"), ref(1)], name=name)
    assert read_refer(tmp_path, "train") == [
        Expression(
            sent_id=sent_id,
            ref_id=1,
            image_id="100",
            text=text,
            box_xyxy=(1.5, 2.0, 31.75, 6.0),
            ann_id=10,
            split="train",
        )
        for sent_id, text in [(10, "The man, "), (11, "café's left")]
    ]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickles_of_every_protocol_are_read(tmp_path: Path, protocol: int) -> None:
    write(tmp_path, [])
    (tmp_path / "refs(umd).json").unlink()
    (tmp_path / "refs(unc).p").write_bytes(pickle.dumps([ref()], protocol))
    assert [expression.text for expression in read_refer(tmp_path, "train")] == ["The man, ", "café's left"]


def test_splits_are_those_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, [ref(1, "testA"), ref(2, "testB"), ref(3, "testA")], name="refs(unc).json")
    assert [expression.ref_id for expression in read_refer(tmp_path, "testA")] == [1, 1, 3, 3]
    assert refusal(tmp_path, "test").endswith("refs(unc).json: has no split 'test'; its splits are: testA, testB")


def test_umd_goes_before_unc_before_google_and_lines_before_pickles(tmp_path: Path) -> None:
    names = ["refs(google).p", "refs(google).json", "refs(unc).p", "refs(unc).jsonl", "refs(umd).p", "refs(umd).json"]
    for number, name in enumerate(names, 1):
        write(tmp_path, [ref(number)], [annotation(number)], name)
        assert read_refer(tmp_path, "train")[0].ref_id == number


def test_a_folder_without_expressions_is_refused_with_the_names_looked_for(tmp_path: Path) -> None:
    message = refusal(tmp_path)
    assert message.startswith(f"{tmp_path}: has none of refs(umd).jsonl")
    assert "refs(google).p" in message


class Harmful:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch harmed",)


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        (Harmful(), "posix.system"),
        (OrderedDict(a=1), "collections.OrderedDict"),
        (np.int64(3), "multiarray.scalar"),
        ({1, 2}, "__builtin__.set"),
    ],
)
def test_a_pickle_that_asks_for_anything_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: Any, asked: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "refs(umd).p").write_bytes(pickle.dumps([ref(1, tokens=value)], 2))
    message = refusal(tmp_path)
    assert "refs(umd).p: asks for " in message
    assert asked in message
    assert not (tmp_path / "harmed").exists()


def test_a_pickle_that_refers_outside_is_refused(tmp_path: Path) -> None:
    (tmp_path / "refs(umd).p").write_bytes(b"Pfile:secret\n.")
    assert "refers to an external object ('file:secret')" in refusal(tmp_path)


def test_a_pickle_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = python2([ref()]) + b"."
    write(tmp_path, [ref()], name="refs(umd).p")
    for length in range(len(whole)):
        (tmp_path / "refs(umd).p").write_bytes(whole[:length])
        assert "refs(umd).p: not a complete pickle" in refusal(tmp_path)


@pytest.mark.parametrize(
    "data",
    [b"\x80\xff.", b"garbage", b"0.", b"Inot a number\n.", b"S'open\n.", b"g7\n.", b"(d}b.", b"\x82\x01."],
    ids=["protocol", "text", "empty stack", "number", "quote", "memo", "state", "extension"],
)
def test_bytes_that_are_no_pickle_are_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "refs(umd).p").write_bytes(data)
    assert "refs(umd).p: " in refusal(tmp_path)


@pytest.mark.parametrize("data", ["", "[", "[NaN]", "{}", "[]", "null"])
def test_json_that_is_no_list_of_entries_is_refused(tmp_path: Path, data: str) -> None:
    write(tmp_path, [])
    (tmp_path / "refs(umd).json").write_text(data)
    assert "refs(umd).json: not " in refusal(tmp_path)


def sentence(**changes: Any) -> dict[str, Any]:
    return {"raw": "a", "sent": "a", "tokens": [], "sent_id": 77} | changes


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (3, "entry 1: expected an object, found 3"),
        ({}, "entry 1: ann_id is missing"),
        (ref(2, ann_id="20"), "entry 1: ann_id is '20', not a whole number"),
        (ref(2, ref_id=None), "entry 1: ref_id is None, not a whole number"),
        (ref(2, image_id=1.5), "entry 1: image_id is 1.5, not a whole number"),
        (ref(2, split=["train"]), "entry 1: split is ['train'], not text"),
        (ref(2, sentences={}), "entry 1: sentences is {}, not a list"),
        (ref(2, sentences=["a"]), "entry 1: sentences[0]: expected an object, found 'a'"),
        (ref(2, sentences=[sentence(raw=5)]), "entry 1: sentences[0]: raw is 5, not text"),
        (ref(2, sentences=[sentence(sent_id=True)]), "entry 1: sentences[0]: sent_id is True, not a whole number"),
        (ref(2, sentences=[sentence(), sentence()]), "entry 1: sentences[1]: sent_id 77 appears earlier"),
        (ref(2, ref_id=1), "entry 1: ref_id 1 appears earlier too"),
        (ref(9), "entry 1: ann_id 90 is not in"),
        (ref(2, image_id=100), "entry 1: image_id is 100, but"),
    ],
)
def test_a_damaged_entry_is_named(tmp_path: Path, row: Any, what: str) -> None:
    assert f"refs(umd).json: {what}" in refusal(write(tmp_path, [ref(1), row]))


def test_a_damaged_line_is_named_by_its_number(tmp_path: Path) -> None:
    write(tmp_path, [ref(1), ref(2, split=None)], name="refs(umd).jsonl")
    assert "refs(umd).jsonl:2: split is None, not text" in refusal(tmp_path)


@pytest.mark.parametrize(
    "bbox",
    [[1, 2, 3], [1, 2, 3, 4, 5], ["1", 2, 3, 4], [True, 2, 3, 4], [1, 2, -3, 4], [1, 2, 0, 4], [1, 2, 10**400, 4]],
)
def test_a_box_that_is_none_is_refused(tmp_path: Path, bbox: list[Any]) -> None:
    write(tmp_path, [ref(1)], [annotation(5), annotation(1, bbox=bbox)])
    assert "instances.json: annotations[1]: bbox is [" in refusal(tmp_path)


def test_boxes_that_are_fractions_are_refused(tmp_path: Path) -> None:
    write(tmp_path, [ref(1)], [annotation(1, bbox=[0.1, 0.2, 0.5, 0.5])])
    assert "all boxes lie within 0..1" in refusal(tmp_path)


def test_boxes_of_other_objects_may_be_what_they_are(tmp_path: Path) -> None:
    write(tmp_path, [ref(1)], [annotation(2, bbox=[0, 0, 0, 0]), annotation(1)])
    assert len(read_refer(tmp_path, "train")) == 2


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"id": "10"}, "id is '10', not a whole number"),
        ({"bbox": None}, "bbox is None, not a list"),
        ({"image_id": None}, "image_id is None, not a whole number"),
    ],
)
def test_a_damaged_object_is_named(tmp_path: Path, changes: dict[str, Any], what: str) -> None:
    write(tmp_path, [ref(1)], [annotation(1, **changes)])
    assert f"instances.json: annotations[0]: {what}" in refusal(tmp_path)


def test_an_object_that_stands_there_twice_is_refused(tmp_path: Path) -> None:
    write(tmp_path, [ref(1)], [annotation(1), annotation(1)])
    assert "instances.json: annotations[1]: id 10 appears in an earlier entry too" in refusal(tmp_path)


def test_missing_boxes_are_refused_by_name(tmp_path: Path) -> None:
    write(tmp_path, [ref(1)])
    (tmp_path / "instances.json").unlink()
    assert "instances.json: cannot be read (No such file or directory)" in refusal(tmp_path)


def test_a_pickle_as_lines_gives_the_same_expressions(tmp_path: Path) -> None:
    write(tmp_path, [ref(1), ref(2, "val"), ref(3)], name="refs(unc).p")
    before = read_refer(tmp_path, "train")
    assert refs_to_jsonl(tmp_path / "refs(unc).p", tmp_path / "refs(unc).jsonl") == 3
    (tmp_path / "refs(unc).p").unlink()
    assert read_refer(tmp_path, "train") == before


def test_lines_hold_every_field_of_the_pickle(tmp_path: Path) -> None:
    write(tmp_path, [ref(1), ref(2)], name="refs(unc).p")
    refs_to_jsonl(tmp_path / "refs(unc).p", tmp_path / "lines.jsonl")
    assert [json.loads(line) for line in (tmp_path / "lines.jsonl").open()] == [ref(1), ref(2)]


def test_a_damaged_pickle_leaves_no_lines(tmp_path: Path) -> None:
    (tmp_path / "refs(umd).p").write_bytes(pickle.dumps([ref(1), ref(1)], 2))
    with pytest.raises(RefusedError, match=r"entry 1: ref_id 1 appears earlier"):
        refs_to_jsonl(tmp_path / "refs(umd).p", tmp_path / "lines.jsonl")
    assert not (tmp_path / "lines.jsonl").exists()


def test_what_json_has_no_word_for_is_refused(tmp_path: Path) -> None:
    (tmp_path / "refs(umd).p").write_bytes(pickle.dumps([ref(1, area=float("nan"))], 2))
    with pytest.raises(RefusedError, match=r"entry 0: cannot be written as JSON"):
        refs_to_jsonl(tmp_path / "refs(umd).p", tmp_path / "lines.jsonl")


def test_expressions_of_shapes_are_about_the_boxes_of_their_scenes(tmp_path: Path) -> None:
    output = tmp_path / "shapes"
    assert write_shapes(ShapesSettings(output=output, scenes=20)) == 0
    scenes = {str(scene["image_id"]): scene for scene in map(json.loads, (output / "scenes.jsonl").open())}
    read = {split: read_refer(output / "refer" / "refcocog", split) for split in ("train", "val", "test")}
    for split, expressions in read.items():
        assert expressions
        for expression in expressions:
            scene = scenes[expression.image_id]
            assert scene["split"] == split
            assert list(expression.box_xyxy) in [item["box_xyxy"] for item in scene["objects"]]
