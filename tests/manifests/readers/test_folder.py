"""A plain folder of images."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from vilbert.manifests.readers.folder import read_folder
from vilbert.manifests.readers.image_ids import image_names
from vilbert.manifests.readers.images import is_image
from vilbert.manifests.report import Report


def test_recursive_sorted_with_paths_as_ids(tmp_path: Path) -> None:
    for name in ("b/2.PNG", "b/1.webp", "a.jpg", "c.d.jpeg", "notes.txt", "b/.DS_Store", "b/c/x.tiff"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    report = Report()
    records = list(read_folder(tmp_path, report, split="train"))
    assert [record.image_id for record in records] == ["a", "c.d", "b/1", "b/2", "b/c/x"]
    assert [record.uri for record in records][3] == str(tmp_path / "b/2.PNG")
    assert {record.split for record in records} == {"train"}
    assert report.counts == {"other-file": 2}


def test_same_stem_twice_keeps_the_suffixes() -> None:
    assert image_names(["a.jpg", "a.png", "b.jpg"]) == {"a.jpg": "a.jpg", "a.png": "a.png", "b.jpg": "b"}
    assert image_names(["a.jpg", "a.jpg.png"]) == {"a.jpg": "a", "a.jpg.png": "a.jpg.png"}


@given(st.sets(st.from_regex(r"[ab.]{1,3}(\.jpg|\.png|\.jpg\.png)", fullmatch=True), max_size=12))
def test_ids_are_unique(names: set[str]) -> None:
    ids = image_names(sorted(names))
    assert set(ids) == {name for name in names if is_image(name)}
    assert len(set(ids.values())) == len(ids)


def test_links_are_followed_once(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/1.jpg").touch()
    (tmp_path / "root").mkdir()
    (tmp_path / "root/link").symlink_to(tmp_path / "data")
    (tmp_path / "data/loop").symlink_to(tmp_path / "data")
    assert [record.image_id for record in read_folder(tmp_path / "root", Report())] == ["link/1"]


def test_names_that_are_not_utf8_are_counted(tmp_path: Path) -> None:
    Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jpg")).touch()
    (tmp_path / "caf\u00e9.jpg").touch()
    report = Report()
    assert [record.image_id for record in read_folder(tmp_path, report)] == ["caf\u00e9"]
    assert report.counts == {"unreadable-name": 1}


def test_hidden_images_are_counted_and_left_out(tmp_path: Path) -> None:
    hidden = (
        "._a.jpg",
        ".b.jpg",
        ".Trash/c.jpg",
        "d/.ipynb_checkpoints/e-checkpoint.png",
        "__MACOSX/f.jpg",
        "@eaDir/g/h.jpg",
    )
    for name in ("a.jpg", "d/e.png", *hidden):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    report = Report()
    assert [record.image_id for record in read_folder(tmp_path, report)] == ["a", "d/e"]
    assert report.counts == {"hidden-file": len(hidden)}


def test_shards_and_metadata_that_are_hidden_are_counted_and_not_read(tmp_path: Path) -> None:
    row = '{"file_name": "c.jpg", "text": "a snapshot"}\n'
    hidden = (".Trash/00000.tar", ".Trash/1/00000.parquet", ".snapshot/d/metadata.jsonl", "d/._00000.tar")
    for name in ("d/e.png", ".Trash/1/00000/0.jpg", ".snapshot/d/c.jpg", *hidden):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(row)
    report = Report()
    assert [record.image_id for record in read_folder(tmp_path, report)] == ["d/e"]
    assert report.counts == {"hidden-file": 2 + len(hidden)}


def test_a_folder_that_lies_in_a_hidden_one_is_read(tmp_path: Path) -> None:
    root = tmp_path / ".cache/images"
    root.mkdir(parents=True)
    (root / "a.jpg").touch()
    assert [record.image_id for record in read_folder(root, Report())] == ["a"]
