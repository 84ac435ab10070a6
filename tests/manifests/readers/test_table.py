"""CSV and JSONL with columns by name."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from vilbert.manifests.readers.columns import ColumnNames
from vilbert.manifests.readers.table import read_table
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.manifests.report import Report

FULL = {
    "image_id": "x1",
    "uri": "https://x/1.jpg",
    "captions": ['a, "b"\nc', "d"],
    "split": "val",
    "width": 640,
    "height": 480,
    "sha256": "AB" * 32,
    "boxes": [[0, 0, 10, 20.5]],
}
RECORD = ImageRecord(
    image_id="x1",
    uri="https://x/1.jpg",
    captions=('a, "b"\nc', "d"),
    split="val",
    boxes_xyxy=((0.0, 0.0, 10.0, 20.5),),
    sha256="ab" * 32,
    width=640,
    height=480,
)


def read(path: Path, **options: Any) -> tuple[list[ImageRecord], Report]:
    report = Report()
    return list(read_table(path, report, kind="jsonl" if path.suffix == ".jsonl" else "csv", **options)), report


def write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(
            {name: json.dumps(value) if isinstance(value, list) else value for name, value in row.items()}
            for row in rows
        )


def write_jsonl(path: Path, rows: list[Any]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_csv_and_jsonl_give_the_same_record(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [FULL])
    write_jsonl(tmp_path / "t.jsonl", [FULL])
    for path in (tmp_path / "t.csv", tmp_path / "t.jsonl"):
        records, report = read(path)
        assert records == [RECORD]
        assert not report.counts


@pytest.mark.parametrize("name", ["uri", "url", "path", "img_path"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_only_the_uri_is_needed(tmp_path: Path, name: str, suffix: str) -> None:
    rows = [{name: "https://x/1.jpg"}, {name: "https://x/1.jpg"}]
    (write_csv if suffix == "csv" else write_jsonl)(tmp_path / f"t.{suffix}", rows)
    records, report = read(tmp_path / f"t.{suffix}")
    assert [record.image_id for record in records] == ["000000000-d9a7af44", "000000001-d9a7af44"]
    assert records[0]._replace(image_id="") == ImageRecord(image_id="", uri="https://x/1.jpg")
    assert report.counts == {"no-caption": 2}


def test_retrieval_jsonl_of_12_in_1(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "all_data_final_train_2014.jsonline", [{"id": 9, "img_path": "a/b.jpg", "sentences": ["A", "B "]}]
    )
    report = Report()
    records = list(read_table(tmp_path / "all_data_final_train_2014.jsonline", report, kind="jsonl"))
    assert (records[0].image_id, records[0].captions) == ("9", ("A", "B"))
    assert records[0].uri == str(tmp_path / "a/b.jpg")
    assert report.counts == {"missing-file": 1}


def test_relative_paths_start_at_images_or_the_table(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/1.jpg").touch()
    write_jsonl(
        tmp_path / "t.jsonl", [{"path": "images/1.jpg"}, {"path": "1.jpg"}, {"path": str(tmp_path / "images/1.jpg")}]
    )
    records, report = read(tmp_path / "t.jsonl")
    assert [record.uri for record in records] == [
        str(tmp_path / "images/1.jpg"),
        str(tmp_path / "1.jpg"),
        str(tmp_path / "images/1.jpg"),
    ]
    assert report.counts["missing-file"] == 1
    records, report = read(tmp_path / "t.jsonl", images=tmp_path / "images")
    assert records[1].uri == str(tmp_path / "images/1.jpg")
    assert read(tmp_path / "t.jsonl", check_files=False)[1].counts["missing-file"] == 0


@pytest.mark.parametrize(
    "row",
    [
        {"image_id": "a"},
        {"uri": ""},
        {"uri": ["a"]},
        {"uri": "a", "image_id": 1.5},
        {"uri": "a", "sha256": "abc"},
        {"uri": "a", "captions": "[" * 100_000},
        {"uri": "a", "boxes": "[1"},
        [],
        3,
    ],
)
def test_malformed_rows_are_counted_with_their_line(tmp_path: Path, row: Any) -> None:
    write_jsonl(tmp_path / "t.jsonl", [FULL, row, FULL])
    records, report = read(tmp_path / "t.jsonl")
    assert records == [RECORD, RECORD]
    assert report.counts == {"malformed-row": 1}
    assert "t.jsonl:2" in report.examples["malformed-row"][0]


def test_broken_json_line(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"uri": "http://x"\n\n{"uri": "http://y", "caption": "a"}\n')
    records, report = read(tmp_path / "t.jsonl")
    assert [record.uri for record in records] == ["http://y"]
    assert report.counts == {"malformed-row": 1}


def test_csv_cells(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(' URI ,Caption,width\nhttp://x,,\n\nhttp://y,b\nhttp://z,"c\nd",12\n')
    records, report = read(tmp_path / "t.csv")
    assert [(record.uri, record.captions, record.width) for record in records] == [
        ("http://x", (), None),
        ("http://z", ("c\nd",), 12),
    ]
    assert report.counts == {"empty-caption": 1, "malformed-row": 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [("a,b\n1,2\n", "header"), ("uri,uri\n1,2\n", "each name once"), ('uri\n"a"b\n', r"t\.csv:2"), ("", "header")],
)
def test_csv_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(ManifestError, match=message):
        read(tmp_path / "t.csv")


def test_split_option_goes_over_the_column(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "t.jsonl", [FULL])
    assert read(tmp_path / "t.jsonl", split="train")[0][0].split == "train"


def test_bad_boxes_are_counted_and_left_away(tmp_path: Path) -> None:
    write_jsonl(
        tmp_path / "t.jsonl", [{**FULL, "boxes": [[0, 0, 1, 1], [0, 0, 0, 1]]}, {**FULL, "boxes": "[[5, 5, 1, 1]]"}]
    )
    records, report = read(tmp_path / "t.jsonl")
    assert [record.boxes_xyxy for record in records] == [((0.0, 0.0, 1.0, 1.0),), None]
    assert report.counts == {"bad-box": 2}


def test_captions_that_are_no_text_are_counted_and_the_row_stays(tmp_path: Path) -> None:
    rows = [
        {"uri": "http://a", "captions": ["ok", None, 5, float("nan"), ["x"], {}, True, "\x07"]},
        {"uri": "http://b", "caption": None},
    ]
    write_jsonl(tmp_path / "t.jsonl", rows)
    records, report = read(tmp_path / "t.jsonl")
    assert [record.captions for record in records] == [("ok",), ()]
    assert report.counts == {"empty-caption": 2, "bad-caption": 5, "no-caption": 1}


def test_a_cell_nan_is_text_and_a_list_in_a_cell_is_read_within_bounds(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('uri,captions\nhttp://a,nan\nhttp://b,"' + "[" * 100_000 + '"\n')
    records, report = read(tmp_path / "t.csv")
    assert [record.captions for record in records] == [("nan",)]
    assert report.counts == {"malformed-row": 1}
    assert "nested deeper" in report.examples["malformed-row"][0]


def test_boxes_of_a_table_that_are_fractions_are_refused_or_scaled(tmp_path: Path) -> None:
    row = {"uri": "http://a", "caption": "a", "boxes": [[0.25, 0.5, 0.5, 1]], "width": 200, "height": 100}
    write_jsonl(tmp_path / "t.jsonl", [row, row])
    with pytest.raises(ManifestError, match="--box-format"):
        read(tmp_path / "t.jsonl")
    records, report = read(tmp_path / "t.jsonl", columns=ColumnNames(box_format="xyxy-normalized"))
    assert [record.boxes_xyxy for record in records] == [((50.0, 50.0, 100.0, 100.0),)] * 2
    assert not report.counts
    write_jsonl(tmp_path / "t.jsonl", [row, row | {"boxes": [[1, 2, 3, 4]]}])
    assert read(tmp_path / "t.jsonl")[1].counts == {"box-within-pixel": 1}
