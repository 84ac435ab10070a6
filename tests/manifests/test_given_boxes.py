"""Given boxes from JSONL and from COCO instances, joined by image id."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vilbert.manifests.boxes import BoxFormat, parse_box
from vilbert.manifests.given_boxes import GivenBoxes
from vilbert.manifests.readers.columns import ColumnNames
from vilbert.manifests.readers.table import read_table
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.manifests.report import Report

RECORDS = [ImageRecord(image_id=str(i), uri=f"{i}.jpg", width=100, height=80) for i in range(1, 4)]


def join(
    path: Path, records: list[ImageRecord] = RECORDS, form: BoxFormat | None = None
) -> tuple[list[ImageRecord], Report]:
    report = Report()
    boxes = GivenBoxes(path, report, form)
    joined = list(boxes.join(iter(records), report))
    boxes.count_unmet(report)
    return joined, report


def instances(path: Path, annotations: list[dict[str, Any]]) -> Path:
    common = {"segmentation": [[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]], "area": 1.0, "category_id": 18}
    rows = [{"id": i, "iscrowd": 0, **common, **row} for i, row in enumerate(annotations)]
    path.write_text(json.dumps({"images": [], "categories": [], "annotations": rows}))
    return path


def test_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "boxes.jsonl"
    path.write_text(
        '{"image_id": 1, "boxes": [[0, 0, 10, 10], [5.5, 6, 100, 80]]}\n'
        '{"image_id": "2", "boxes": [[1, 1, 2, 2]]}\n{"image_id": "2", "boxes": [[3, 3, 4, 4]]}\n'
        '{"image_id": 9, "boxes": [[1, 1, 2, 2]]}\n{"boxes": []}\n'
    )
    joined, report = join(path)
    assert [record.boxes_xyxy for record in joined] == [
        ((0.0, 0.0, 10.0, 10.0), (5.5, 6.0, 100.0, 80.0)),
        ((1.0, 1.0, 2.0, 2.0), (3.0, 3.0, 4.0, 4.0)),
        None,
    ]
    assert report.counts == {"no-given-boxes": 1, "boxes-without-image": 1, "malformed-row": 1}


def test_instances_are_xywh_and_crowds_are_no_boxes(tmp_path: Path) -> None:
    path = instances(
        tmp_path / "instances_val2017.json",
        [
            {"image_id": 1, "bbox": [10.0, 20.0, 30.5, 40.0]},
            {"image_id": 1, "bbox": [0, 0, 100, 80], "iscrowd": 1, "segmentation": {"counts": [1], "size": [2, 2]}},
            {"image_id": 1, "bbox": [1, 2, 3, 4]},
            {"image_id": 2, "bbox": [5, 5, 0, 9]},
            {"image_id": 7, "bbox": [1, 2, 3, 4]},
        ],
    )
    joined, report = join(path)
    assert joined[0].boxes_xyxy == ((10.0, 20.0, 40.5, 60.0), (1.0, 2.0, 4.0, 6.0))
    assert joined[1].boxes_xyxy is None
    assert report.counts == {"crowd-box": 1, "bad-box": 1, "no-given-boxes": 2, "boxes-without-image": 1}


def test_detection_results_are_a_list_of_xywh(tmp_path: Path) -> None:
    path = tmp_path / "coco_instances_results.json"
    found = [{"image_id": 1, "category_id": 3, "bbox": [10.0, 20.0, 30.5, 40.0], "score": 0.9, "segmentation": {}}]
    path.write_text(json.dumps([*found, {"image_id": 2, "category_id": 3, "bbox": [1, 2, 3, 4], "score": 0.1}]))
    joined, _report = join(path)
    assert [record.boxes_xyxy for record in joined] == [((10.0, 20.0, 40.5, 60.0),), ((1.0, 2.0, 4.0, 6.0),), None]


def test_rounding_at_the_border_is_clipped_and_more_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "boxes.jsonl"
    path.write_text('{"image_id": 1, "boxes": [[-0.5, 0, 100.3, 80.99], [0, 0, 102, 80], [100, 0, 100.5, 9]]}\n')
    joined, report = join(path, RECORDS[:1])
    assert joined[0].boxes_xyxy == ((0.0, 0.0, 100.0, 80.0), (0.0, 0.0, 102.0, 80.0))
    assert report.counts == {"box-outside": 1, "bad-box": 1}


def test_boxes_stay_as_they_are_where_the_size_is_not_known(tmp_path: Path) -> None:
    path = tmp_path / "boxes.jsonl"
    path.write_text('{"image_id": 1, "boxes": [[-0.5, 0, 2000, 80]]}\n')
    assert join(path, [ImageRecord(image_id="1", uri="1.jpg")])[0][0].boxes_xyxy == ((-0.5, 0.0, 2000.0, 80.0),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[1, 2]", "no list of objects"),
        ("7", "not a JSON object"),
        ('{"images": []}', "annotations"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "b.json").write_text(text)
    with pytest.raises(ManifestError, match=message):
        join(tmp_path / "b.json")


def test_an_annotation_that_cannot_be_read_costs_its_row_alone(tmp_path: Path) -> None:
    rows = [
        {"image_id": 1, "bbox": None},
        {"image_id": 1.0, "bbox": [1, 2, 3, 4]},
        {"image_id": 1, "bbox": [1, 2, 3, 4]},
    ]
    joined, report = join(instances(tmp_path / "i.json", rows), RECORDS[:1])
    assert joined[0].boxes_xyxy == ((1.0, 2.0, 4.0, 6.0),)
    assert report.counts == {"malformed-row": 2}


def test_absent_file(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="no such file"):
        join(tmp_path / "none")


@given(st.lists(st.one_of(st.floats(), st.integers(), st.none(), st.booleans(), st.text(max_size=2)), max_size=5))
def test_a_parsed_box_has_an_area(value: list[object]) -> None:
    box = parse_box(value)
    if box is not None:
        x1, y1, x2, y2 = box
        assert x1 < x2
        assert y1 < y2
        assert list(box) == [float(number) for number in value]  # type: ignore[arg-type]


def test_bad_values_are_no_boxes() -> None:
    nan, infinity = float("nan"), float("inf")
    for value in (
        [0, 0, nan, 1],
        [0, 0, infinity, 1],
        [-infinity, 0, 1, 1],
        [0, 0, 1],
        [True, 0, 2, 2],
        [0, 0, 10**400, 1],
        3,
    ):
        assert parse_box(value) is None
    assert parse_box([0, 0, 1, 1]) == (0.0, 0.0, 1.0, 1.0)


FRACTIONS = '{"image_id": 1, "boxes": [[0.1, 0.25, 0.5, 0.5]]}\n{"image_id": 2, "boxes": [[0, 0, 1, 1]]}\n'


def test_a_file_of_fractions_is_refused_and_the_message_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(FRACTIONS)
    with pytest.raises(ManifestError, match=r"2 images lie within 0\.\.1.*--box-format xyxy-normalized"):
        join(tmp_path / "b.jsonl")
    instances(tmp_path / "i.json", [{"image_id": 1, "bbox": [0.1, 0.1, 0.5, 0.5]}])
    with pytest.raises(ManifestError, match="--box-format"):
        join(tmp_path / "i.json")


def test_an_image_with_fractions_among_others_is_counted(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(FRACTIONS + '{"image_id": 3, "boxes": [[0.5, 0.5, 0.9, 0.9], [1, 1, 9, 9]]}\n')
    assert join(tmp_path / "b.jsonl")[1].counts == {"box-within-pixel": 1}


def test_pixels_are_taken_where_the_user_says_so(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(FRACTIONS)
    assert join(tmp_path / "b.jsonl", form="xyxy")[0][1].boxes_xyxy == ((0.0, 0.0, 1.0, 1.0),)


@pytest.mark.parametrize(
    ("form", "box", "expected"),
    [
        ("xyxy", [10, 20, 30, 60], (10, 20, 30, 60)),
        ("xywh", [10, 20, 20, 40], (10, 20, 30, 60)),
        ("cxcywh", [20, 40, 20, 40], (10, 20, 30, 60)),
        ("xyxy-normalized", [0.25, 0.25, 0.5, 0.75], (25, 20, 50, 60)),
        ("xywh-normalized", [0.25, 0.25, 0.25, 0.5], (25, 20, 50, 60)),
        ("cxcywh-normalized", [0.375, 0.5, 0.25, 0.5], (25, 20, 50, 60)),
        ("cxcywh-normalized", [0.5, 0.5, 1.015625, 1], (0, 0, 100, 80)),
    ],
)
def test_forms_of_boxes(tmp_path: Path, form: BoxFormat, box: list[float], expected: tuple[float, ...]) -> None:
    (tmp_path / "b.jsonl").write_text(json.dumps({"image_id": 1, "boxes": [box]}) + "\n")
    joined, report = join(tmp_path / "b.jsonl", RECORDS[:1], form)
    assert joined[0].boxes_xyxy == (tuple(map(float, expected)),)
    assert not report.counts
    joined, _ = join(instances(tmp_path / "i.json", [{"image_id": 1, "bbox": box}]), RECORDS[:1], form)
    assert joined[0].boxes_xyxy == (tuple(map(float, expected)),)


def test_pixels_are_no_fractions(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text('{"image_id": 1, "boxes": [[10, 20, 30, 60], [0, 0, 0.5, 0.5]]}\n')
    joined, report = join(tmp_path / "b.jsonl", RECORDS[:1], "xyxy-normalized")
    assert joined[0].boxes_xyxy == ((0.0, 0.0, 50.0, 40.0),)
    assert report.counts == {"bad-box": 1}


def test_the_size_of_a_local_image_is_read_where_the_source_does_not_give_it(tmp_path: Path) -> None:
    Image.new("RGB", (64, 32)).save(tmp_path / "1.png")
    (tmp_path / "2.png").write_bytes(b"no image")
    (tmp_path / "b.jsonl").write_text(FRACTIONS)
    records = [ImageRecord(image_id=str(i), uri=str(tmp_path / f"{i}.png")) for i in (1, 2)]
    joined, report = join(tmp_path / "b.jsonl", records, "xyxy-normalized")
    assert joined[0].boxes_xyxy == ((6.4, 8.0, 32.0, 16.0),)
    assert joined[1].boxes_xyxy is None
    assert report.counts == {"bad-box": 1}


def test_fractions_of_an_image_behind_a_url_need_its_size(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_text(FRACTIONS)
    with pytest.raises(ManifestError, match="width and height"):
        join(tmp_path / "b.jsonl", [ImageRecord(image_id="1", uri="http://e.invalid/1.jpg")], "xyxy-normalized")


def test_boxes_of_the_table_are_not_scaled_again(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(
        "".join(
            json.dumps(
                {"image_id": i, "uri": f"{i}.jpg", "width": 100, "height": 80, "boxes": [[0.25, 0.25, 0.5, 0.5]]}
            )
            + "\n"
            for i in (1, 3)
        )
    )
    (tmp_path / "b.jsonl").write_text(FRACTIONS)
    form: BoxFormat = "xyxy-normalized"
    columns = ColumnNames(box_format=form)
    rows = list(read_table(tmp_path / "rows.jsonl", Report(), kind="jsonl", columns=columns, check_files=False))
    joined, _ = join(tmp_path / "b.jsonl", rows, form)
    assert [record.boxes_xyxy for record in joined] == [((10.0, 20.0, 50.0, 40.0),), ((25.0, 20.0, 50.0, 40.0),)]
