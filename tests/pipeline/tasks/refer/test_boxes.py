import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchvision.ops import box_iou

from vilbert.model.outputs import ViLBertForTasksOutput
from vilbert.pipeline.tasks.refer.boxes import iou, is_right, soft_targets
from vilbert.pipeline.tasks.refer.task import open_task
from vilbert.pipeline.tasks.registry import TaskFiles
from vilbert.pipeline.tasks.task import Shown

GOLDEN: dict[str, Any] = json.loads(
    (Path(__file__).parents[1] / "golden/refer_accuracy.json").read_text(encoding="utf-8")
)

corner = st.floats(-50, 1000, width=32)
side = st.floats(0, 600, width=32)
boxes = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), corner, corner, side, side)
many = st.lists(boxes, max_size=8)


def shown(row: dict[str, Any]) -> Shown:
    """Return the regions of a golden expression."""
    regions = np.array(row["boxes"], dtype=np.float32)
    none, alike = np.zeros((len(regions), 0), dtype=np.float16), np.full(len(regions), 1 / len(regions), np.float32)
    width, height = row["size"]
    return Shown(image_id="", width=width, height=height, boxes=regions, features=none, weights=alike)


def write_golden(folder: Path) -> None:
    """Write the golden expressions as REFER's files."""
    rows = list(enumerate(GOLDEN["rows"]))
    objects = [{"id": number, "image_id": number, "bbox": row["bbox"]} for number, row in rows]
    refs = [
        {
            "ref_id": number, "ann_id": number, "image_id": number, "split": "val",
            "sentences": [{"sent_id": number, "raw": "a"}],
        }
        for number, _ in rows
    ]  # fmt: skip
    (folder / "instances.json").write_text(json.dumps({"annotations": objects}))
    (folder / "refs(unc).json").write_text(json.dumps(refs))


def test_overlaps_targets_choices_and_accuracy_are_those_of_the_official_code(tmp_path: Path) -> None:
    """That reckons in float32 and we in float64: golden overlaps are one half exactly, or further off than rounding."""
    write_golden(tmp_path)
    rows = GOLDEN["rows"]
    task = open_task("refcoco+", TaskFiles(folder=tmp_path, seed=0), "val", like=None)
    targets = task.targets(range(len(rows)), [shown(row) for row in rows])
    logits = torch.zeros((*targets["overlap"].shape, 1))  # those behind an image's are often the highest
    for number, row in enumerate(rows):
        there = len(row["scores"])
        assert targets["iou"][number, :there].tolist() == pytest.approx(row["overlaps"], rel=1e-5, abs=1e-6)
        assert targets["overlap"][number, :there].tolist() == pytest.approx(row["targets"], rel=1e-5, abs=1e-6)
        logits[number, :there, 0] = torch.tensor(row["scores"])
    answers = task.answers(ViLBertForTasksOutput(vision_logit=logits), targets)
    assert [answer["target"] for answer in answers] == [row["choice"] for row in rows]
    for answer, row in zip(answers, rows, strict=True):
        assert task.figures({0: answer}) == {"accuracy": row["right"]}
    assert task.figures(dict(enumerate(answers))) == {"accuracy": GOLDEN["accuracy"]}


@given(many, boxes)
def test_overlap_is_torchvisions_of_boxes_a_pixel_larger(
    regions: list[tuple[float, ...]], box: tuple[float, ...]
) -> None:
    larger = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    ours = torch.tensor(regions, dtype=torch.float64).reshape(-1, 4) + larger
    expected = box_iou(ours, torch.tensor([box], dtype=torch.float64) + larger)[:, 0]
    np.testing.assert_allclose(iou(regions, box), expected.numpy(), rtol=1e-9, atol=1e-12)


@given(boxes)
def test_a_box_overlaps_itself_wholly(box: tuple[float, ...]) -> None:
    assert iou([box], box) == pytest.approx([1.0])


def test_the_last_pixel_belongs_to_a_box() -> None:
    assert iou([(0, 0, 9, 9)], (0, 0, 9, 4)).tolist() == [0.5]


def test_boxes_that_share_a_corner_pixel_overlap() -> None:
    assert iou([(0, 0, 1, 1)], (1, 1, 2, 2)).tolist() == [1 / 7]


def test_distant_boxes_do_not_overlap_though_both_sides_are_negative() -> None:
    assert iou([(0, 0, 1, 1)], (50, 50, 60, 60)).tolist() == [0.0]


def test_float16_boxes_are_reckoned_in_float64() -> None:
    regions = np.array([[0, 0, 1000, 1000]], dtype=np.float16)  # the area is beyond float16
    assert iou(regions, (0, 0, 1000, 1000)).tolist() == [1.0]
    assert iou(regions, (0, 0, 1000, 1000)).dtype == np.float64


def thirds() -> NDArray[np.float32]:
    """Boxes that overlap (0, 0, 9, 9) wholly, by 6/10, by exactly 1/2 and by 4/10."""
    return np.array([[0, 0, 9, 9], [0, 0, 9, 5], [0, 0, 9, 4], [0, 0, 9, 3]], dtype=np.float32)


def test_targets_are_overlaps_from_one_half_on() -> None:
    targets = soft_targets(thirds(), (0, 0, 9, 9))
    assert targets.tolist() == np.array([1.0, 0.6, 0.5, 0.0], dtype=np.float32).tolist()
    assert targets.dtype == np.float32


def test_right_is_above_one_half() -> None:
    assert is_right(thirds(), (0, 0, 9, 9)).tolist() == [True, True, False, False]


def test_no_boxes_give_no_overlaps() -> None:
    assert soft_targets(np.zeros((0, 4), dtype=np.float32), (0, 0, 1, 1)).shape == (0,)
