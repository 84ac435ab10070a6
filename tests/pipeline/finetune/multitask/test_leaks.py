"""No image that any task is tested on trains any task."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.finetune.multitask.items import open_all
from vilbert.pipeline.finetune.multitask.leaks import (
    images_of,
    name_of,
    read_image_ids,
    read_image_names,
    without_leaks,
)
from vilbert.pipeline.finetune.multitask.settings import MultitaskSettings
from vilbert.pipeline.tasks.captioned_images import CaptionedImage
from vilbert.pipeline.tasks.nlvr2.files import NlvrStatement
from vilbert.pipeline.tasks.nlvr2.task import Nlvr2Task
from vilbert.pipeline.tasks.retrieval.task import RetrievalTask
from vilbert.pipeline.tasks.task import Task

from ...tasks.small_tasks import FOLDERS

IMAGES = st.sets(st.integers(0, 20).map(str))


def statements(pairs: list[tuple[str, str]]) -> Nlvr2Task:
    found = [
        NlvrStatement(identifier=f"train-{number}-0-0", image_ids=pair, text="a", label=True)
        for number, pair in enumerate(pairs)
    ]
    return Nlvr2Task("nlvr2", found)


@given(st.lists(st.tuples(st.integers(0, 20).map(str), st.integers(0, 20).map(str)), min_size=1), IMAGES)
def test_an_item_is_kept_when_none_of_its_images_is_held_out(pairs: list[tuple[str, str]], images: set[str]) -> None:
    task = statements(pairs)
    expected = [item.identifier for item in task.items if not set(item.image_ids) & images]
    held_out = {f"nlvr2 {image}": "nlvr2 test1" for image in images}
    if not expected:
        with pytest.raises(RefusedError, match="nothing is left to train on"):
            without_leaks(task, held_out, {}, split="train")
        return
    kept = without_leaks(task, held_out, {}, split="train")
    assert [item.identifier for item in kept.items] == expected
    assert not images & set(images_of(kept))


def test_numbers_of_another_collection_are_not_the_same_images_unless_a_file_says_so() -> None:
    names = {"2370799": "285"}
    assert name_of("gqa", "285", names) != name_of("vqa", "285", {})
    assert name_of("gqa", "2370799", names) == name_of("refcoco", "285", {})
    assert name_of("vcr-qa", "285", {}) == name_of("vcr-qar", "285", {})


def test_what_was_left_out_is_counted_and_named(caplog: pytest.LogCaptureFixture) -> None:
    task = statements([("1", "2"), ("3", "4"), ("5", "1")])
    with caplog.at_level(logging.WARNING):
        without_leaks(task, {"nlvr2 1": "nlvr2 test1"}, {}, split="train")
    assert "nlvr2, train: 2 of 3 are about 1 images that are held out (1 by nlvr2 test1)" in caplog.text


def test_retrieval_shows_no_image_that_is_held_out_in_wrong_pairs_either() -> None:
    captioned = [CaptionedImage(image_id=str(n), captions=("a", "b")) for n in range(6)]
    task = without_leaks(RetrievalTask("retrieval", captioned), {"2": "refcoco testA"}, {}, split="train")
    assert images_of(task) == ["0", "1", "3", "4", "5"]
    keys = np.arange(40, dtype=np.uint64) * np.uint64(2**58)
    shown = {image for number in range(len(task.items)) for key in keys for image in task.rows(number, key).images}
    assert shown == {"0", "1", "3", "4", "5"}


def test_files_of_ids_and_names(tmp_path: Path) -> None:
    (tmp_path / "ids.json").write_text('[7, "8"]')
    (tmp_path / "ids.txt").write_text("7\n\n 8 \n")
    assert read_image_ids(tmp_path / "ids.json") == read_image_ids(tmp_path / "ids.txt") == ["7", "8"]
    assert read_image_names(None) == {}


@pytest.mark.parametrize(
    ("content", "said"),
    [("[", "cannot be read"), ("{}", "not a JSON list"), ("[1.5]", "not a JSON list"), ("[true]", "not a JSON list")],
)
def test_a_damaged_file_of_ids_is_refused(tmp_path: Path, content: str, said: str) -> None:
    path = tmp_path / "ids.json"
    path.write_text(content)
    with pytest.raises(RefusedError, match=said):
        read_image_ids(path)


@pytest.mark.parametrize("content", ["[]", '{"1": 2}', "{"])
def test_a_damaged_file_of_names_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "names.json"
    path.write_text(content)
    with pytest.raises(RefusedError, match="image_names"):
        read_image_names(path)


def open_tasks(small: Path, folder: Path, *tasks: dict[str, Any]) -> dict[str, tuple[Task, Task | None]]:
    """Read tasks as a run does, by name."""
    found = [{"annotations": str(small / FOLDERS.get(one["task"], "")), "data": ["features"], **one} for one in tasks]
    path = folder / "tasks.json"
    path.write_text(json.dumps(found))
    settings = MultitaskSettings(
        tasks=path, output=folder / "run", init_from="none", model="m", tokenizer="new", min_answer_count=1
    )
    return {task.name: (task, held_out) for task, held_out in open_all(settings.entries())}


def test_no_task_trains_on_images_that_another_evaluates_or_leaves_out(small: Path, tmp_path: Path) -> None:
    (tmp_path / "secret.txt").write_text("1\n2\n")
    found = open_tasks(
        small,
        tmp_path,
        {"task": "vqa", "split": "trainval", "eval_split": "none"},
        {"task": "refcocog"},
        {"task": "nlvr2"},
        {"task": "snli-ve", "split": "train", "eval_split": "none", "leave_out": [str(tmp_path / "secret.txt")]},
    )
    held_out = set(images_of(found["refcocog"][1])) if found["refcocog"][1] else set()
    assert held_out == {str(picture) for picture in range(0, 900, 6)}
    for name in ("vqa", "refcocog", "snli-ve"):
        trained = set(images_of(found[name][0]))
        assert trained == {str(picture) for picture in range(900)} - held_out - {"1", "2"}, name
    assert len(found["nlvr2"][0].items) == 750  # its images are its own


def test_test_splits_are_left_out_unless_told_otherwise(
    small: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    captions = json.loads((small / "captions" / "dataset_coco.json").read_text())
    for picture, image in enumerate(captions["images"]):
        image["split"] = "test" if picture % 5 == 0 else "train"
    (tmp_path / "dataset_coco.json").write_text(json.dumps(captions))
    vqa = {"task": "vqa", "split": "trainval", "eval_split": "none"}
    retrieval = {"task": "retrieval-coco", "eval_split": "none", "annotations": str(tmp_path)}
    alone = set(images_of(open_tasks(small, tmp_path, vqa)["vqa"][0]))
    found = open_tasks(small, tmp_path, vqa, {**retrieval, "leave_out": []})
    assert set(images_of(found["vqa"][0])) == alone
    found = open_tasks(small, tmp_path, vqa, retrieval)
    assert set(images_of(found["vqa"][0])) == {image for image in alone if int(image) % 5}
    assert "may train other tasks" not in caplog.text
    open_tasks(small, tmp_path, vqa, {"task": "snli-ve", "eval_split": "none"})
    assert "snli-ve: images of its test split may train other tasks" in caplog.text


def test_a_file_without_splits_leaves_nothing_out_by_default_and_a_damaged_one_is_refused(
    small: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    captions = [{"id": number, "img_path": f"{number}.jpg", "sentences": ["a dog"]} for number in range(9)]
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(row) + "\n" for row in captions))
    retrieval = {"task": "retrieval", "eval_split": "none", "annotations": str(tmp_path / "all.jsonl")}
    assert len(open_tasks(small, tmp_path, retrieval)["retrieval"][0].items) == 9
    assert "its file names no splits" in caplog.text
    (tmp_path / "snli_ve_train.jsonl").write_bytes((small / "snli-ve" / "snli_ve_train.jsonl").read_bytes())
    (tmp_path / "snli_ve_test.jsonl").write_text("{")
    with pytest.raises(RefusedError, match="snli_ve_test"):
        open_tasks(small, tmp_path, {"task": "snli-ve", "eval_split": "none", "annotations": str(tmp_path)})


def test_a_split_that_is_left_out_is_read_of_the_same_annotations(small: Path, tmp_path: Path) -> None:
    found = open_tasks(
        small,
        tmp_path,
        {"task": "vqa", "split": "trainval", "eval_split": "none"},
        {"task": "snli-ve", "eval_split": "none", "leave_out": ["val"]},
    )
    assert set(images_of(found["vqa"][0])) == {str(picture) for picture in range(900) if picture % 6}
    with pytest.raises(RefusedError, match="nothing is left to train on"):
        open_tasks(
            small,
            tmp_path,
            {"task": "vqa", "split": "val", "eval_split": "none"},
            {"task": "snli-ve", "eval_split": "none", "leave_out": ["val"]},
        )
