"""Given boxes from YOLO and Pascal VOC files, and from COCO detections with scores."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vilbert.manifests.boxes import BoxFormat
from vilbert.manifests.given_boxes import GivenBoxes
from vilbert.manifests.readers.folder import read_folder
from vilbert.manifests.record import Box, ImageRecord, ManifestError
from vilbert.manifests.report import Report
from vilbert.pipeline.cli import main

RECORDS = [ImageRecord(image_id=name, uri=f"/images/{name}.jpg", width=100, height=50) for name in ("a", "b/c", "d")]


def join(
    path: Path, records: list[ImageRecord] = RECORDS, form: BoxFormat | None = None, min_score: float = 0.0
) -> tuple[list[tuple[Box, ...] | None], Report]:
    report = Report()
    boxes = GivenBoxes(path, report, form, min_score=min_score)
    joined = [record.boxes_xyxy for record in boxes.join(iter(records), report)]
    boxes.count_unmet(report)
    return joined, report


def write(folder: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return folder


def voc(*boxes: tuple[object, ...]) -> str:
    names = ("xmin", "ymin", "xmax", "ymax")
    objects = "".join(
        "<object><name>dog</name><bndbox>"
        + "".join(f"<{name}>{value}</{name}>" for name, value in zip(names, box, strict=True))
        + "</bndbox></object>"
        for box in boxes
    )
    return f"<annotation><filename>x.jpg</filename>{objects}</annotation>"


def test_yolo_lines_are_centres_and_sizes_as_fractions(tmp_path: Path) -> None:
    files = {
        "a.txt": "0 0.5 0.5 0.2 0.4\n\n3 0.25 0.5 0.5 1 0.9\n",
        "b/c.txt": "1 0.1 0.2 0.3 0.2 0.2 0.6\n",  # a polygon
        "d.txt": "",
        "classes.txt": "dog\ncat\n",
        "e.txt": "0 0.5 0.5 0.1 0.1",
    }
    joined, report = join(write(tmp_path, dict(files)))
    assert np.array(joined[0]) == pytest.approx(np.array([(40, 15, 60, 35), (0, 0, 50, 50)]))
    assert np.array(joined[1]) == pytest.approx(np.array([(10, 10, 30, 30)]))
    assert joined[2] is None
    assert report.counts == {"no-given-boxes": 1, "boxes-without-image": 1}


def test_yolo_lines_that_are_none_are_counted(tmp_path: Path) -> None:
    lines = "dog 0.5 0.5 0.1 0.1\n0 0.5\n0 nan 0.5 0.1 0.1\n0 0.5 0.5 0 0.1\n0 0.5 0.5 0.2 0.4 0.1\n0 50 50 20 40\n"
    joined, report = join(write(tmp_path, {"a.txt": lines, "b/c.txt": b"\xff\x00"}), min_score=0.5)
    assert joined == [None] * 3
    assert report.counts == {
        "malformed-row": 1, "bad-box": 4, "low-score-box": 1, "unreadable-annotation": 1, "no-given-boxes": 3,
    }  # fmt: skip


def test_the_size_of_an_image_is_read_where_no_source_says_it(tmp_path: Path) -> None:
    Image.new("RGB", (200, 100)).save(tmp_path / "photo.png")
    record = ImageRecord(image_id="7", uri=str(tmp_path / "photo.png"))
    joined, _ = join(write(tmp_path / "labels", {"photo.txt": "0 0.5 0.5 0.5 0.5"}), [record])
    assert joined == [((50, 25, 150, 75),)]


def test_voc_pixels_are_counted_from_one(tmp_path: Path) -> None:
    folder = write(tmp_path, {"a.xml": voc((1, 1, 100, 50), (11, 6, 20, 25)), "b/c.xml": voc(("1.5", 2, 9, 9))})
    assert join(folder)[0] == [((0, 0, 100, 50), (10, 5, 20, 25)), ((0.5, 1, 9, 9),), None]
    assert join(folder, form="xyxy")[0][0] == ((1, 1, 100, 50), (11, 6, 20, 25))
    with pytest.raises(ManifestError, match="Pascal VOC files hold xyxy"):
        join(folder, form="xywh")


def test_voc_files_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    bomb = '<!DOCTYPE l [<!ENTITY a "aa">]><annotation>&a;</annotation>'
    files = {"a.xml": bomb, "b/c.xml": voc((1, 1, 1, 1), ("x", 1, 2, 2), (5, 5, 2, 2)), "d.xml": "<a>"}
    joined, report = join(write(tmp_path, dict(files)))
    assert joined[0] is joined[2] is None
    assert joined[1] == ((0, 0, 1, 1),)
    assert report.counts == {"unreadable-annotation": 2, "bad-box": 2, "no-given-boxes": 2}
    assert "document type" in report.examples["unreadable-annotation"][0]


def test_coco_detections_with_low_scores_are_left_out(tmp_path: Path) -> None:
    rows = [
        {"image_id": "a", "category_id": 1, "bbox": [10, 5, 20, 10], "score": 0.9},
        {"image_id": "a", "category_id": 1, "bbox": [0, 0, 20, 10], "score": 0.2},
        {"image_id": "b/c", "category_id": 1, "bbox": [1, 1, 0, 1], "score": 1},
        {"image_id": "b/c", "bbox": [1, 1, 1, 1], "score": float("nan")},
        {"image_id": None, "bbox": [1, 1, 1, 1]},
        {"image_id": "d", "bbox": [1, 1, 2, 2], "segmentation": {"counts": "x"}},
    ]
    path = tmp_path / "results.json"
    path.write_text(json.dumps(rows))
    joined, report = join(path, min_score=0.5)
    assert joined == [((10, 5, 30, 15),), None, ((1, 1, 3, 3),)]
    assert report.counts == {"low-score-box": 2, "bad-box": 1, "malformed-row": 1, "no-given-boxes": 1}
    assert len(join(path)[0][0] or ()) == 2


def test_a_folder_of_both_kinds_or_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"neither YOLO \.txt nor"):
        join(tmp_path)
    with pytest.raises(ManifestError, match="files of one kind"):
        join(write(tmp_path, {"a.txt": "", "a.xml": ""}))


def test_ids_are_those_of_a_folder_of_images(tmp_path: Path) -> None:
    for name in ("train/a.png", "val/a.png"):
        (tmp_path / "images" / name).parent.mkdir(parents=True)
        Image.new("RGB", (100, 100)).save(tmp_path / "images" / name)
    labels = write(tmp_path / "labels", {"train/a.txt": "0 0.1 0.1 0.2 0.2", "val/a.txt": "0 0.5 0.5 1 1"})
    records = list(read_folder(tmp_path / "images", Report()))
    assert np.array(join(labels, records)[0])[:, 0] == pytest.approx(np.array([(0, 0, 20, 20), (0, 0, 100, 100)]))


def test_the_command_reads_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "images").mkdir()
    Image.new("RGB", (100, 100)).save(tmp_path / "images" / "a.png")
    labels = write(tmp_path / "labels", {"a.txt": "0 0.1 0.1 0.2 0.2 0.3\n0 0.5 0.5 1 1 0.9"})
    arguments = ["manifest", str(tmp_path / "images"), "--output", str(tmp_path / "m.parquet")]
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--min-box-score", "0.5"])
    assert "--min-box-score requires --given-boxes" in capsys.readouterr().err
    assert main([*arguments, "--given-boxes", str(labels), "--min-box-score", "0.5"]) == 0
    assert "low-score-box" in (tmp_path / "m.report.json").read_text()
