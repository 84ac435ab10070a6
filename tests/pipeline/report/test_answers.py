"""Results of an evaluation are read back by item; files that are damaged or of another task are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.report.answers import read_answers
from vilbert.pipeline.tasks.captioned_images import CaptionedImage
from vilbert.pipeline.tasks.captioning.task import CaptioningTask, overlap
from vilbert.pipeline.tasks.nlvr2.files import NlvrStatement
from vilbert.pipeline.tasks.nlvr2.task import Nlvr2Task
from vilbert.pipeline.tasks.refer.files import Expression
from vilbert.pipeline.tasks.refer.task import ReferTask
from vilbert.pipeline.tasks.retrieval.task import RetrievalTask

CAPTIONED = [
    CaptionedImage(image_id="1", captions=("a dog", "one dog runs")),
    CaptionedImage(image_id="2", captions=("a boat",)),
]
EXPRESSION = Expression(
    sent_id=7, ref_id=1, image_id="1", text="the dog", box_xyxy=(0.0, 0.0, 9.0, 9.0), ann_id=1, split="val"
)


def written(folder: Path, rows: Any) -> Path:
    path = folder / "results"
    path.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    return path


def test_a_caption_stands_at_the_first_item_of_its_image(tmp_path: Path) -> None:
    task = CaptioningTask("captioning", CAPTIONED)
    rows = [{"image_id": 2, "caption": "a boat"}, {"image_id": 1, "caption": "dog"}]
    assert read_answers(written(tmp_path, rows), task) == {0: "dog", 2: "a boat"}
    assert task.score(2, "a boat") == pytest.approx(1)
    assert overlap("", ("a boat",)) == 0
    assert overlap("A boat.", ("a boat",)) == pytest.approx(1)


def test_retrieval_is_right_where_the_own_image_is_first(tmp_path: Path) -> None:
    task = RetrievalTask("retrieval", CAPTIONED)
    rows = [
        {"image_id": "1", "caption": "a dog", "ranked": ["1", "2"]},
        {"image_id": "2", "caption": "a boat", "ranked": ["1", "2"]},
    ]
    answers = read_answers(written(tmp_path, rows), task)
    assert {number: task.score(number, answer) for number, answer in answers.items()} == {0: 1, 2: 0}


def test_the_csv_of_nlvr2_is_read(tmp_path: Path) -> None:
    items = [
        NlvrStatement(identifier=f"dev-{pair}-0-0", image_ids=("a", "b"), text="both", label=label)
        for pair, label in enumerate((True, False))
    ]
    task = Nlvr2Task("nlvr2", items)
    answers = read_answers(written(tmp_path, "dev-0-0-0,True\ndev-1-0-0,True\n"), task)
    assert answers == {0: 1, 1: 1}
    assert [task.score(number, answer) for number, answer in answers.items()] == [1, 0]


@pytest.mark.parametrize(
    "rows",
    [
        "", "[", "[" * 100_000, "{}", "3", [3], [{}], [{"sent_id": 7}],
        [{"sent_id": [7], "target": 0, "box": [], "iou": 0}],
        [{"sent_id": 7, "target": 0, "box": [0, 0, 1], "iou": 0.5}],
        [{"sent_id": 7, "target": 0, "box": [5, 0, 1, 1], "iou": 0.5}],
        [{"sent_id": 7, "target": 0, "box": [0, 0, 1, None], "iou": 0.5}],
        '[{"sent_id": 7, "target": 1e999, "box": [0, 0, 1, 1], "iou": 0.5}]',
        [{"sent_id": 8, "target": 0, "box": [0, 0, 1, 1], "iou": 0.5}],
    ],
)  # fmt: skip
def test_damaged_results_and_those_of_other_items_are_refused(tmp_path: Path, rows: Any) -> None:
    task = ReferTask("refcocog", [EXPRESSION], given_boxes="candidates")
    with pytest.raises(RefusedError, match="evaluate"):
        read_answers(written(tmp_path, rows), task)
