"""JSONL line by line, and arrays of objects whose rows of one image become one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vilbert.manifests.readers import json_rows
from vilbert.manifests.readers.json_rows import read_jsonl
from vilbert.manifests.readers.table import read_table
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.manifests.report import Report


def read(tmp_path: Path, rows: Any) -> tuple[list[ImageRecord], Report]:
    path, report = tmp_path / "t.json", Report()
    path.write_text(json.dumps(rows))
    return list(read_table(path, report, kind="json", check_files=False)), report


def test_lavis_lists_an_image_once_for_each_caption(tmp_path: Path) -> None:
    one, two = {"image": "val2014/1.jpg", "image_id": "coco_1"}, {"image": "val2014/2.jpg", "image_id": "coco_2"}
    records, report = read(tmp_path, [{**one, "caption": "a"}, {**two, "caption": "b"}, {**one, "caption": "c"}])
    assert [(record.image_id, record.captions) for record in records] == [("coco_1", ("a", "c")), ("coco_2", ("b",))]
    assert records[0].uri == str(tmp_path / "val2014/1.jpg")
    assert report.counts == {"merged-row": 1}


@pytest.mark.parametrize(
    "fields",
    [
        {"boxes": [[1, 2, 3, 4]]},
        {"split": "val"},
        {"sha256": "0" * 64},
        {"width": 40, "height": 30},
        {"exif_orientation": False},
    ],
)
def test_a_row_of_one_image_with_other_fields_stays_a_row(tmp_path: Path, fields: dict[str, Any]) -> None:
    one = {"image": "1.jpg", "image_id": 1}
    rows = [{**one, "caption": "a"}, {**one, "caption": "b", **fields}, {**one, "caption": "c", **fields}]
    records, report = read(tmp_path, rows)
    assert [record.captions for record in records] == [("a",), ("b", "c")]
    assert records[1]._replace(captions=()) != records[0]._replace(captions=())
    assert report.counts == {"merged-row": 1}


def test_lavis_of_validation_lists_captions(tmp_path: Path) -> None:
    records, report = read(tmp_path, [{"image": "1.jpg", "caption": ["a", "b"]}, {"image": "2.jpg", "caption": ["c"]}])
    assert [record.captions for record in records] == [("a", "b"), ("c",)]
    assert not report.counts


def test_rows_that_are_no_objects_or_name_no_image_are_counted(tmp_path: Path) -> None:
    rows = [{"image": "1.jpg", "caption": "a"}, 3, {"caption": "b"}, {"image": {"bytes": "x"}}, {"image": None}]
    records, report = read(tmp_path, rows)
    assert [record.captions for record in records] == [("a",)]
    assert report.counts == {"malformed-row": 4}


@pytest.mark.parametrize("content", ["[1", '{"image": "a.jpg"}', "[" * 100_000])
def test_no_array_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "t.json").write_text(content)
    with pytest.raises(ManifestError, match=r"t\.json"):
        list(read_table(tmp_path / "t.json", Report(), kind="json"))


def test_names_of_any_case_and_two_of_one_name(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text(
        '{"URL": "http://x/1", "TEXT": null}\n{"url": "http://x/1", "URL": "http://x/2"}\n'
    )
    report = Report()
    assert [row for _, row in read_jsonl(tmp_path / "t.jsonl", report)] == [{"url": "http://x/1"}]
    assert report.counts == {"malformed-row": 1}


def test_a_line_that_is_too_long_or_too_deep_is_one_malformed_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_rows, "MAX_LINE", 1000)
    deep = '{"url": ' + "[" * 450 + "]" * 450 + "}"
    (tmp_path / "t.jsonl").write_text('{"url": "1"}\n{"url": "' + "y" * 5000 + '"}\n' + deep + '\n{"url": "3"}')
    report = Report()
    assert [row for _, row in read_jsonl(tmp_path / "t.jsonl", report)] == [{"url": "1"}, {"url": "3"}]
    assert report.counts == {"malformed-row": 2}


def test_rows_of_one_image_that_follow_each_other_become_one(tmp_path: Path) -> None:
    rows = [
        {"image_id": i, "path": f"{i}.jpg", "caption": text} for i, text in ((1, "a"), (1, "b"), (2, "c"), (1, "d"))
    ]
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = Report()
    records = list(read_table(tmp_path / "t.jsonl", report, kind="jsonl", check_files=False))
    assert [(record.image_id, record.captions) for record in records] == [
        ("1", ("a", "b")),
        ("2", ("c",)),
        ("1", ("d",)),
    ]
    assert report.counts == {"merged-row": 1}
