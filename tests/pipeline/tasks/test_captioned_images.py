import json
from pathlib import Path
from typing import Any

import pytest

from vilbert.manifests.readers.images import ImageRoot
from vilbert.manifests.readers.karpathy import read_karpathy
from vilbert.manifests.report import Report
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shapes.write import ShapesSettings, write_shapes
from vilbert.pipeline.tasks.captioned_images import CaptionedImage, coco_number, read_captioned_images


def sentences(*texts: str) -> list[dict[str, Any]]:
    return [{"tokens": text.lower().split(), "raw": text, "imgid": 0, "sentid": i} for i, text in enumerate(texts)]


def coco(number: int, split: str = "train", **changes: Any) -> dict[str, Any]:
    """Return an entry of dataset_coco.json as published."""
    row = {
        "filepath": "val2014",
        "sentids": [1],
        "filename": f"COCO_val2014_{number:012d}.jpg",
        "imgid": 0,
        "split": split,
        "sentences": sentences(f"A man with a red helmet, number {number}."),
        "cocoid": number,
    }
    return row | changes


def flickr(name: str, split: str = "train") -> dict[str, Any]:
    """Return an entry of dataset_flickr30k.json as published."""
    texts = sentences("Two young guys.", "Two men in green shirts.")
    return {"sentids": [0, 1], "imgid": 0, "sentences": texts, "split": split, "filename": name}


def document(path: Path, *rows: Any) -> Path:
    path.write_text(json.dumps({"images": rows, "dataset": "coco"}))
    return path


def lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def refusal(path: Path, split: str = "train") -> str:
    with pytest.raises(RefusedError) as caught:
        read_captioned_images(path, split)
    return str(caught.value)


def ids(path: Path, split: str) -> list[str]:
    return [image.image_id for image in read_captioned_images(path, split)]


def test_train_is_train_and_restval_in_the_order_of_the_file(tmp_path: Path) -> None:
    path = document(tmp_path / "d.json", coco(9, "restval"), coco(3, "test"), coco(5), coco(1, "val"))
    assert ids(path, "train") == ["9", "5"]
    assert ids(path, "restval") == ["9"]
    assert ids(path, "val") == ["1"]


def test_captions_are_as_written_but_for_white_space_at_their_ends(tmp_path: Path) -> None:
    row = coco(1, sentences=sentences(" A cat.\n", "\t", "Zwei \ud83d Hunde", "A  dog "))
    assert read_captioned_images(document(tmp_path / "d.json", row), "train") == [
        CaptionedImage(image_id="1", captions=("A cat.", "Zwei \ufffd Hunde", "A  dog"))
    ]


def test_images_of_flickr_are_named_by_their_files(tmp_path: Path) -> None:
    path = document(tmp_path / "d.json", flickr("1000092795.jpg"), flickr("10002456.jpg", "test"))
    assert ids(path, "train") == ["1000092795"]


def test_a_folder_with_one_document_stands_for_it(tmp_path: Path) -> None:
    document(tmp_path / "dataset_coco.json", coco(7))
    assert ids(tmp_path, "train") == ["7"]
    document(tmp_path / "dataset_flickr30k.json", flickr("8.jpg"))
    assert "found dataset_coco.json, dataset_flickr30k.json; give the path" in refusal(tmp_path)


def test_a_folder_without_a_document_is_refused(tmp_path: Path) -> None:
    assert "expected one Karpathy document, dataset_*.json, found none" in refusal(tmp_path)


def test_a_split_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    path = document(tmp_path / "d.json", coco(9, "restval"), coco(3, "test"))
    assert refusal(path, "dev").endswith("d.json: has no split 'dev'; its splits are: restval, test")


@pytest.mark.parametrize(
    ("row", "image_id"),
    [
        ({"id": 391895, "img_path": "train2014/COCO_train2014_000000391895.jpg"}, "391895"),
        ({"id": 391895, "img_path": "000000391895.jpg"}, "391895"),
        ({"id": 391895}, "391895"),
        ({"id": 0, "img_path": "1000092795.jpg"}, "1000092795"),
        ({"id": 1000092795, "img_path": "1000092795.jpg"}, "1000092795"),
        ({"img_path": "flickr30k-images/1000092795.jpg"}, "1000092795"),
        ({"id": "x7"}, "x7"),
    ],
)
def test_images_of_lines_are_named_as_manifests_name_them(tmp_path: Path, row: dict[str, Any], image_id: str) -> None:
    path = lines(tmp_path / "all_data_final_train_2014.jsonline", row | {"sentences": ["A cat."]})
    assert read_captioned_images(path, "train") == [CaptionedImage(image_id=image_id, captions=("A cat.",))]


def test_lines_that_name_a_split_are_chosen_by_it(tmp_path: Path) -> None:
    rows = [{"id": 1, "sentences": ["a"], "split": "val"}, {"id": 2, "sentences": ["b"], "split": "train"}]
    assert ids(lines(tmp_path / "d.jsonl", *rows), "train") == ["2"]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (coco(2, cocoid="2"), "cocoid is '2'"),
        (coco(2, split=None), "split is None"),
        (coco(2, split=""), "split is empty"),
        (coco(2, filename=5), "filename is 5"),
        (coco(2, sentences=None), "'sentences' is None"),
        (coco(2, sentences=[{"tokens": []}]), "sentences[0]: 'raw' is None"),
        (coco(2, sentences=[]), "image 2 has no caption"),
        (coco(2, sentences=sentences(" \n")), "image 2 has no caption"),
        (coco(1), "image 1 appears in an earlier entry too"),
        (coco(1, "test"), "image 1 appears in an earlier entry too"),
        (flickr(""), "the image has no file name"),
    ],
)
def test_a_damaged_entry_is_named(tmp_path: Path, row: dict[str, Any], what: str) -> None:
    message = refusal(document(tmp_path / "d.json", coco(1), row))
    assert "d.json: images[1]: " in message
    assert what in message


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"id": 1, "sentences": ["again"]}, "image 1 appears in an earlier entry too"),
        ({"id": 2}, "sentences is missing"),
        ({"id": 2, "sentences": "one"}, "sentences is 'one', not a list"),
        ({"id": 2, "sentences": ["one", 2]}, "sentences[1] is 2, not text"),
        ({"id": 2, "sentences": []}, "image 2 has no caption"),
        ({"sentences": ["one"]}, "id and img_path are missing"),
        ({"id": None, "sentences": ["one"]}, "id is None, neither text nor a whole number"),
        ({"id": True, "sentences": ["one"]}, "id is True, neither text nor a whole number"),
        ({"img_path": 3, "sentences": ["one"]}, "img_path is 3, not text"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, row: dict[str, Any], what: str) -> None:
    message = refusal(lines(tmp_path / "d.jsonl", {"id": 1, "sentences": ["a"]}, row))
    assert "d.jsonl:2: " in message
    assert what in message


@pytest.mark.parametrize("text", ["", "{", "[]", '{"images": 3}', '{"images": [1]}', '{"dataset": "coco"}', "\xff"])
def test_a_damaged_document_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "d.json"
    path.write_bytes(text.encode("latin1"))
    assert str(path) in refusal(path)


def test_a_document_without_images_is_refused(tmp_path: Path) -> None:
    assert "has no split 'train'; its splits are: none" in refusal(document(tmp_path / "d.json"))


def test_a_missing_document_is_refused(tmp_path: Path) -> None:
    assert "d.json: cannot be read (No such file or directory)" in refusal(tmp_path / "d.json")


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("COCO_train2014_000000000025.jpg", "25"),
        ("a/b/COCO_test2015_000000581929.jpg", "581929"),
        ("COCO_train2014_000000000025_3.jpg", None),
        ("lsmdc_3023_DISTRICT_9/3023_DISTRICT_9_01.02@0.jpg", None),
        ("000000000025.jpg", None),
    ],
)
def test_the_number_in_a_published_name(name: str, number: str | None) -> None:
    assert coco_number(name) == number


def test_shapes_are_named_and_captioned_as_their_manifest_says(tmp_path: Path) -> None:
    output = tmp_path / "shapes"
    assert write_shapes(ShapesSettings(output=output, scenes=10)) == 0
    path = output / "karpathy" / "dataset_coco.json"
    records = list(read_karpathy(path, Report(), images=ImageRoot(output)))
    for split in ("train", "val", "test"):
        images = [(image.image_id, image.captions) for image in read_captioned_images(output / "karpathy", split)]
        assert images
        assert images == [(record.image_id, record.captions) for record in records if record.split == split]
