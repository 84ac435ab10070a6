"""COCO captions JSON, 2014 and 2017: ids, places of images, captions with their dirt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vilbert.manifests.readers.coco import read_coco
from vilbert.manifests.readers.images import ImageRoot
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.manifests.report import Report

COCO10 = Path(__file__).resolve().parents[3] / "../shared/data/coco10"


def document(year: int, ids: list[int], captions: list[tuple[int, str]]) -> dict[str, Any]:
    prefix = "COCO_train2014_" if year == 2014 else ""
    return {
        "info": {"year": year},
        "licenses": [{"id": 3, "name": "Attribution"}],
        "images": [
            {
                "license": 3,
                "file_name": f"{prefix}{i:012d}.jpg",
                "coco_url": f"http://images.cocodataset.org/train{year}/{prefix}{i:012d}.jpg",
                "height": 427,
                "width": 640,
                "date_captured": "2013-11-15 02:41:42",
                "flickr_url": "http://farm1.staticflickr.com/1/1_z.jpg",
                "id": i,
            }
            for i in ids
        ],
        "annotations": [{"image_id": i, "id": n, "caption": text} for n, (i, text) in enumerate(captions)],
    }


def read(path: Path, content: object, images: Path | None = None, **options: str) -> tuple[list[ImageRecord], Report]:
    path.write_text(json.dumps(content))
    report = Report()
    return list(read_coco(path, report, images=ImageRoot(images) if images else None, **options)), report


def test_captions_are_grouped_by_id_and_cleaned(tmp_path: Path) -> None:
    five = [(57870, f"caption {i}") for i in range(5)]
    seven = [(384029, f" caption {i}\n") for i in range(7)]
    mixed = [pair for pairs in zip(five, seven[:5], strict=True) for pair in pairs] + seven[5:] + [(57870, " \n")]
    records, report = read(tmp_path / "captions_train2014.json", document(2014, [57870, 384029, 222], mixed))
    assert [record.image_id for record in records] == ["57870", "384029", "222"]
    assert records[0].captions == tuple(f"caption {i}" for i in range(5))
    assert records[1].captions == tuple(f"caption {i}" for i in range(7))
    assert (records[0].width, records[0].height, records[0].split) == (640, 427, "train")
    assert records[0].uri == "http://images.cocodataset.org/train2014/COCO_train2014_000000057870.jpg"
    assert report.counts == {"empty-caption": 1, "no-caption": 1}


def test_2017_names_take_the_split_from_the_annotation_file(tmp_path: Path) -> None:
    records, _ = read(tmp_path / "captions_val2017.json", document(2017, [139], [(139, "a room")]))
    assert records[0].split == "val"
    assert read(tmp_path / "captions_val2017.json", document(2017, [139], []), split="dev")[0][0].split == "dev"


@pytest.mark.parametrize("where", ["", "train2014", "elsewhere"])
def test_images_are_found_in_the_folder_or_below(tmp_path: Path, where: str) -> None:
    file = tmp_path / "images" / where / "COCO_train2014_000000000009.jpg"
    file.parent.mkdir(parents=True)
    file.touch()
    records, report = read(tmp_path / "c.json", document(2014, [9, 10], [(9, "a"), (10, "b")]), tmp_path / "images")
    assert records[0].uri == str(file)
    assert len(records) == 2, "a missing file keeps its row"
    assert report.counts == {"missing-file": 1}
    assert "COCO_train2014_000000000010.jpg" in report.examples["missing-file"][0]


def test_the_part_of_the_annotation_file_goes_first(tmp_path: Path) -> None:
    for folder in ("a_copy", "val2017", "train2017"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        (tmp_path / "images" / folder / "000000000139.jpg").touch()
    records, _ = read(tmp_path / "captions_val2017.json", document(2017, [139], [(139, "a")]), tmp_path / "images")
    assert records[0].uri == str(tmp_path / "images/val2017/000000000139.jpg")
    with pytest.raises(ManifestError, match=r"a_copy.*and.*train2017"):
        read(tmp_path / "captions.json", document(2017, [139], [(139, "a")]), tmp_path / "images")


def test_captions_of_unknown_images_are_counted(tmp_path: Path) -> None:
    _, report = read(tmp_path / "c.json", document(2014, [9], [(9, "a"), (8, "b"), (8, "c")]))
    assert report.counts == {"caption-without-image": 2}


def test_lone_surrogates_become_replacement_characters(tmp_path: Path) -> None:
    records, report = read(tmp_path / "c.json", document(2014, [9], [(9, "a \ud83d dog"), (9, "\U0001f600")]))
    assert records[0].captions == ("a \ufffd dog", "\U0001f600")
    assert report.counts == {"replaced-characters": 1}


def test_test_images_have_no_annotations(tmp_path: Path) -> None:
    content = document(2014, [1, 2], [])
    del content["annotations"]
    records, report = read(tmp_path / "image_info_test2014.json", content)
    assert [record.captions for record in records] == [(), ()]
    assert report.counts == {"no-caption": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"images": [{"id": 1, "file_name": "a.jpg"}]}, "--images"),
        ({"images": {}}, "images"),
        ({"images": [], "annotations": [{"image_id": 1, "bbox": [0, 0, 1, 1]}]}, "--given-boxes"),
        ([], "not a JSON object"),
    ],
)
def test_other_documents_are_refused(tmp_path: Path, content: object, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        read(tmp_path / "c.json", content)


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"id": 1},
        {"id": 1, "file_name": 5},
        *({"id": image_id, "file_name": "a.jpg"} for image_id in ([1], True, 1.0, " ", None)),
    ],
)
def test_an_image_that_cannot_be_read_costs_its_row_alone(tmp_path: Path, row: dict[str, Any]) -> None:
    content = document(2014, [9], [(9, "a")])
    content["images"].insert(0, row)
    records, report = read(tmp_path / "c.json", content)
    assert [(record.image_id, record.captions) for record in records] == [("9", ("a",))]
    assert report.counts == {"malformed-row": 1}
    assert "images[0]" in report.examples["malformed-row"][0]
    assert "<class" not in report.examples["malformed-row"][0]


def test_captions_that_are_no_text_are_counted_and_null_is_an_empty_one(tmp_path: Path) -> None:
    pairs: list[tuple[Any, Any]] = [
        (9, None),
        (9, "ok"),
        (9, float("nan")),
        (9, ["x"]),
        (9, 5),
        (9, "\x00\u200b"),
        (8, None),
    ]
    content = document(2014, [9, 8], pairs)
    content["annotations"].append({"id": 99, "image_id": 1.0, "caption": "of no image"})
    records, report = read(tmp_path / "c.json", content)
    assert [record.captions for record in records] == [("ok",), ()]
    assert report.counts == {"empty-caption": 2, "bad-caption": 3, "no-caption": 1, "malformed-row": 1}


def test_ids_are_compared_as_text(tmp_path: Path) -> None:
    content = document(2014, [9], [("9", "a")])  # type: ignore[list-item]
    assert read(tmp_path / "c.json", content)[0][0].captions == ("a",)


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "/etc/passwd", "tar://a.jpg::/x.tar", "simplecache::file:///etc/passwd"]
)
def test_a_url_of_a_file_of_this_machine_is_refused(tmp_path: Path, url: str) -> None:
    content = document(2014, [9], [])
    content["images"][0]["coco_url"] = url
    with pytest.raises(ManifestError, match="--images"):
        read(tmp_path / "c.json", content)


def test_images_of_hidden_folders_are_not_looked_at(tmp_path: Path) -> None:
    for folder in ("photographs", ".Trash", "__MACOSX"):
        (tmp_path / "images" / folder).mkdir(parents=True)
        (tmp_path / "images" / folder / "COCO_train2014_000000000009.jpg").touch()
    records, report = read(tmp_path / "c.json", document(2014, [9], [(9, "a")]), tmp_path / "images")
    assert records[0].uri == str(tmp_path / "images/photographs/COCO_train2014_000000000009.jpg")
    assert not report.counts


def test_a_document_nested_too_deeply_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"images":' + "[" * 100_000 + "]" * 100_000 + "}")
    with pytest.raises(ManifestError, match="nested deeper"):
        list(read_coco(tmp_path / "c.json", Report()))


def test_a_download_cut_short_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(document(2014, [1], []))[:-10])
    with pytest.raises(ManifestError, match="download complete"):
        list(read_coco(path, Report()))


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    content = document(2014, [1], [])
    for name in ("../secret.jpg", "/etc/passwd", "a/../../b.jpg", "..", "..\\secret.jpg", "C:\\a.jpg", "a\0.jpg"):
        content["images"][0]["file_name"] = name
        with pytest.raises(ManifestError, match="points outside"):
            read(tmp_path / "c.json", content, tmp_path)


@pytest.mark.skipif(not COCO10.is_dir(), reason="the ten photographs are not there")
def test_the_ten_photographs() -> None:
    report = Report()
    records = list(read_coco(COCO10 / "captions_sample.json", report, images=ImageRoot(COCO10 / "images")))
    assert len(records) == 10
    assert all(len(record.captions) == 2 and Path(record.uri).is_file() for record in records)
    assert not report.counts
