"""A key that appears twice in an object: it costs its row, counted as the other rows that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from vilbert.manifests.readers.coco import read_coco
from vilbert.manifests.readers.columns import ColumnNames
from vilbert.manifests.readers.document import read_document
from vilbert.manifests.readers.images import ImageRoot
from vilbert.manifests.readers.json_rows import read_json_array, read_jsonl
from vilbert.manifests.readers.karpathy import read_karpathy
from vilbert.manifests.record import ManifestError
from vilbert.manifests.report import Report

GOOD = '{"image": "a.jpg", "caption": "one"}'
TWICE = '{"image": "b.jpg", "caption": "one", "caption": "two"}'
NESTED = '{"image": "c.jpg", "caption": "one", "more": [{"x": 1, "x": 2}]}'


@pytest.mark.parametrize("form", ["lines", "array"])
def test_a_row_of_json_is_counted_and_the_others_are_read(tmp_path: Path, form: str) -> None:
    report = Report()
    if form == "lines":
        (tmp_path / "rows").write_text("\n".join([TWICE, NESTED, GOOD]))
        rows = list(read_jsonl(tmp_path / "rows", report))
    else:
        (tmp_path / "rows").write_text(f"[{TWICE}, {NESTED}, {GOOD}]")
        rows = list(read_json_array(tmp_path / "rows", report, ColumnNames()))
    assert [values["image"] for _, values in rows] == ["a.jpg"]
    assert report.counts["malformed-row"] == 2
    assert "key 'caption' appears twice" in report.examples["malformed-row"][0]


def test_rows_of_coco_are_counted(tmp_path: Path) -> None:
    (tmp_path / "captions.json").write_text(
        """{"images": [{"id": 1, "id": 2, "file_name": "a.jpg"}, {"id": 3, "file_name": "b.jpg"}],
        "annotations": [{"image_id": 3, "caption": "one", "caption": "two"}, {"image_id": 3, "caption": "three"}]}"""
    )
    report = Report()
    [record] = read_coco(tmp_path / "captions.json", report, images=ImageRoot(tmp_path, check_files=False))
    assert (record.image_id, record.captions) == ("3", ("three",))
    assert report.counts["malformed-row"] == 2


def test_rows_of_karpathy_are_counted_for_their_sentences_too(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_text(
        """{"images": [{"filename": "a.jpg", "split": "train", "sentences": [{"raw": "one", "raw": "two"}]},
        {"filename": "b.jpg", "split": "train", "sentences": [{"raw": "three"}]}]}"""
    )
    report = Report()
    [record] = read_karpathy(tmp_path / "dataset.json", report, images=ImageRoot(tmp_path, check_files=False))
    assert record.captions == ("three",)
    assert report.counts["malformed-row"] == 1


@pytest.mark.parametrize("text", ['{"images": [], "images": []}', '{"images": [], "info": {"images": 1, "images": 2}}'])
def test_elsewhere_in_a_document_a_repeated_key_is_refused_by_name(tmp_path: Path, text: str) -> None:
    (tmp_path / "captions.json").write_text(text)
    with pytest.raises(ManifestError, match="key 'images' appears twice"):
        read_document(tmp_path / "captions.json", ["images"])
