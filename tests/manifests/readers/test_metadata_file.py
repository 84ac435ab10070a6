"""Hugging Face's imagefolder: metadata names the images of its folder."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vilbert.manifests.readers.columns import ColumnNames
from vilbert.manifests.readers.folder import read_folder
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.manifests.report import Report


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def read(root: Path, columns: ColumnNames | None = None) -> tuple[list[ImageRecord], Report]:
    report = Report()
    return list(read_folder(root, report, **({} if columns is None else {"columns": columns}))), report


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_every_file_of_metadata(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path, "a.png", "sub/b.png")
    path = tmp_path / f"metadata.{suffix}"
    if suffix == "jsonl":
        path.write_text('{"file_name": "a.png", "text": "A"}\n{"file_name": "sub/b.png", "text": "B"}\n')
    elif suffix == "csv":
        path.write_text("file_name,text\na.png,A\nsub/b.png,B\n")
    else:
        pq.write_table(pa.table({"file_name": ["a.png", "sub/b.png"], "text": ["A", "B"]}), path)
    records, report = read(tmp_path)
    assert [(record.image_id, record.captions) for record in records] == [("a", ("A",)), ("sub/b", ("B",))]
    assert records[1].uri == str(tmp_path / "sub/b.png")
    assert not report.counts


def test_folders_of_splits_with_metadata_of_their_own(tmp_path: Path) -> None:
    for folder in ("train", "validation", "test"):
        touch(tmp_path, f"{folder}/1.png")
        (tmp_path / folder / "metadata.jsonl").write_text('{"file_name": "1.png", "text": "a"}\n')
    records, _ = read(tmp_path)
    assert [(record.image_id, record.split) for record in records] == [
        ("test/1", "test"),
        ("train/1", "train"),
        ("validation/1", "val"),
    ]


def test_what_does_not_fit_is_counted(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "b.png", "sub/c.png", "notes.txt")
    rows = ["a.png", "a.png", "gone.png", "../b.png", str(tmp_path / "b.png")]
    (tmp_path / "metadata.jsonl").write_text(
        "".join(json.dumps({"file_name": name, "caption": str(i)}) + "\n" for i, name in enumerate(rows))
    )
    records, report = read(tmp_path)
    assert [(record.image_id, record.captions) for record in records] == [
        ("a", ("0", "1")), ("gone", ("2",)), ("b", ()), ("sub/c", ()),
    ]  # fmt: skip
    assert report.counts == {
        "merged-row": 1, "missing-file": 1, "malformed-row": 2, "image-without-metadata": 2, "other-file": 1,
    }  # fmt: skip


def test_images_of_one_stem_keep_their_suffixes(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "a.jpg", "b.png")
    (tmp_path / "metadata.csv").write_text("file_name\na.png\na.jpg\nb.jpg\nb.png\n")
    assert [record.image_id for record in read(tmp_path)[0]] == ["a.png", "a.jpg", "b.jpg", "b"]


def test_a_file_that_names_no_images_is_another_file(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text("camera,iso\nx,100\n")
    records, report = read(tmp_path)
    assert ([record.image_id for record in records], report.counts) == (["a"], {"other-file": 1})


def test_two_that_do_are_refused(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text("file_name\na.png\n")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "a.png"}\n')
    with pytest.raises(ManifestError, match=r"metadata\.csv and metadata\.jsonl"):
        read(tmp_path)


def test_named_columns(tmp_path: Path) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "metadata.csv").write_text("picture,text,title\na.png,A,B\n")
    records, _ = read(tmp_path, ColumnNames(uri="picture", caption="title"))
    assert [(record.image_id, record.captions) for record in records] == [("a", ("B",))]


@pytest.mark.parametrize("name", ["file:///etc/passwd", "tar://a.jpg::/x.tar", "simplecache::file:///a.jpg"])
def test_a_url_of_a_file_elsewhere_on_this_machine_is_malformed(tmp_path: Path, name: str) -> None:
    touch(tmp_path, "a.png")
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": name, "caption": "x"}) + "\n")
    records, report = read(tmp_path)
    assert [record.uri for record in records] == [str(tmp_path / "a.png")]
    assert report.counts["malformed-row"] == 1
    with pytest.raises(ManifestError, match="--uri-column nope"):
        read(tmp_path, ColumnNames(uri="nope"))


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "parquet"])
def test_file_name_goes_before_the_url_that_an_image_came_from(tmp_path: Path, suffix: str) -> None:
    touch(tmp_path, "a.png")
    row = {"url": "http://x/1", "file_name": "a.png", "text": "A"}
    path = tmp_path / f"metadata.{suffix}"
    if suffix == "jsonl":
        path.write_text(json.dumps(row) + "\n")
    elif suffix == "csv":
        path.write_text(",".join(row) + "\n" + ",".join(row.values()) + "\n")
    else:
        pq.write_table(pa.table({name: [value] for name, value in row.items()}), path)
    records, report = read(tmp_path)
    assert [(record.uri, record.captions) for record in records] == [(str(tmp_path / "a.png"), ("A",))]
    assert not report.counts


def test_a_hidden_image_that_a_row_names_is_not_missing(tmp_path: Path) -> None:
    touch(tmp_path, ".thumbs/a.jpg", "._b.jpg")
    names = (".thumbs/a.jpg", "._b.jpg", "._c.jpg")
    (tmp_path / "metadata.jsonl").write_text("".join(json.dumps({"file_name": n, "text": "a"}) + "\n" for n in names))
    records, report = read(tmp_path)
    assert len(records) == len(names)
    assert report.counts["missing-file"] == 1
    assert "_c.jpg" in report.examples["missing-file"][0]
