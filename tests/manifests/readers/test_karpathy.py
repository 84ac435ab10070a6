"""Karpathy's splits: COCO with its ids and two folders, Flickr30k with file names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vilbert.manifests.readers.images import ImageRoot
from vilbert.manifests.readers.karpathy import read_karpathy
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.manifests.report import Report


def image(filename: str, split: str, raws: list[str], **more: Any) -> dict[str, Any]:
    sentences = [{"tokens": ["lower", "cased"], "raw": raw, "imgid": 0, "sentid": i} for i, raw in enumerate(raws)]
    return {**more, "sentids": [0], "filename": filename, "imgid": 0, "split": split, "sentences": sentences}


COCO = {
    "images": [
        image(
            "COCO_val2014_000000391895.jpg", "test", ["A man, with a red helmet.\n"], filepath="val2014", cocoid=391895
        ),
        image("COCO_train2014_000000000009.jpg", "train", ["A", " "], filepath="train2014", cocoid=9),
        image("COCO_val2014_000000000042.jpg", "restval", [], filepath="val2014", cocoid=42),
    ],
    "dataset": "coco",
}
FLICKR = {"images": [image("1000092795.jpg", "train", ["Two young guys."] * 5)], "dataset": "flickr30k"}


def read(tmp_path: Path, content: object, **options: str) -> tuple[list[ImageRecord], Report]:
    path, report = tmp_path / "dataset.json", Report()
    path.write_text(json.dumps(content))
    return list(read_karpathy(path, report, images=ImageRoot(tmp_path / "images"), **options)), report


def test_coco(tmp_path: Path) -> None:
    for folder, name in (
        ("val2014", "COCO_val2014_000000391895.jpg"),
        ("train2014", "COCO_train2014_000000000009.jpg"),
    ):
        (tmp_path / "images" / folder).mkdir(parents=True)
        (tmp_path / "images" / folder / name).touch()
    records, report = read(tmp_path, COCO)
    assert [record.image_id for record in records] == ["391895", "9", "42"]
    assert [record.split for record in records] == ["test", "train", "restval"]
    assert records[0].captions == ("A man, with a red helmet.",), "raw, stripped; not the tokens"
    assert records[0].uri == str(tmp_path / "images/val2014/COCO_val2014_000000391895.jpg")
    assert report.counts == {"missing-file": 1, "empty-caption": 1, "no-caption": 1}
    assert {record.split for record in read(tmp_path, COCO, split="all")[0]} == {"all"}


def test_flickr_is_named_by_its_files(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/1000092795.jpg").touch()
    records, report = read(tmp_path, FLICKR)
    assert [(record.image_id, len(record.captions)) for record in records] == [("1000092795", 5)]
    assert not report.counts


def test_needs_images(tmp_path: Path) -> None:
    (tmp_path / "d.json").write_text(json.dumps(FLICKR))
    with pytest.raises(ManifestError, match="--images"):
        list(read_karpathy(tmp_path / "d.json", Report(), images=None))


@pytest.mark.parametrize("key", ["filename", "split", "sentences"])
def test_an_image_without_a_key_costs_its_row_alone(tmp_path: Path, key: str) -> None:
    (tmp_path / "images").mkdir()
    broken = {name: value for name, value in FLICKR["images"][0].items() if name != key}
    records, report = read(tmp_path, {"images": [broken, *FLICKR["images"]]})
    assert [record.image_id for record in records] == ["1000092795"]
    assert report.counts["malformed-row"] == 1
    assert repr(key) in report.examples["malformed-row"][0]


def test_odd_sentences_are_counted_and_never_become_text(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    row = image("a.jpg", "train", ["good"])
    row["sentences"] += ["a text", 5, ["x"], {"tokens": ["x"]}, {"raw": 5}, {"raw": float("nan")}, {"raw": None}, None]
    records, report = read(tmp_path, {"images": [row]})
    assert records[0].captions == ("good",)
    assert (report.counts["bad-caption"], report.counts["empty-caption"]) == (6, 2)


@pytest.mark.parametrize("folder", ["/etc", "../x", "a/../../x", "..\\x", 5])
def test_a_folder_that_leads_out_of_the_images_is_refused(tmp_path: Path, folder: object) -> None:
    (tmp_path / "images").mkdir()
    content = {"images": [image("secret.jpg", "train", ["a"], filepath=folder)]}
    if isinstance(folder, str):
        with pytest.raises(ManifestError, match="points outside --images"):
            read(tmp_path, content)
    else:
        assert read(tmp_path, content)[1].counts == {"malformed-row": 1}
