"""Captions in files beside their images; what does not fit together is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from vilbert.manifests.readers.folder import read_folder
from vilbert.manifests.report import Report


def make(root: Path, files: dict[str, str | bytes | None]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content or b"")
    return root


def captions(root: Path) -> tuple[dict[str, tuple[str, ...]], Report]:
    report = Report()
    return {record.image_id: record.captions for record in read_folder(root, report)}, report


def test_every_form_of_caption_file(tmp_path: Path) -> None:
    files: dict[str, str | bytes | None] = {
        "a.png": None, "a.txt": "a dog\n", "b/c.jpg": None, "b/c.caption": "\ufeffa cat", "b/d.jpg": None,
        "b/d.json": '{"Caption": "a cow", "url": "http://x"}', "e.webp": None, "e.webp.txt": "one\r\n\r\ntwo\r\n",
        "f.gif": None, "f.TXT": "loud", "g.jpg": None, "g.txt": "text", "g.json": '{"caption": "not this"}',
        "h.jpg": None, "h.txt": "grüße".encode("utf-16"),
    }  # fmt: skip
    found, report = captions(make(tmp_path, files))
    assert found == {
        "a": ("a dog",), "b/c": ("a cat",), "b/d": ("a cow",), "e": ("one", "two"), "f": ("loud",), "g": ("text",),
        "h": ("grüße",),
    }  # fmt: skip
    assert not report.counts


def test_what_is_without_its_other_half_is_counted(tmp_path: Path) -> None:
    files: dict[str, str | bytes | None] = {"a.png": None, "a.txt": "a", "b.png": None, "sub/c.png": None, "d.txt": "d"}
    found, report = captions(make(tmp_path, {**files, "notes.pdf": None, "e.png": None, "e.txt": " \n"}))
    assert found == {"a": ("a",), "b": (), "e": (), "sub/c": ()}
    assert report.counts == {"no-caption": 2, "caption-file-without-image": 1, "other-file": 1, "empty-caption": 1}


def test_a_folder_without_caption_files_is_as_before(tmp_path: Path) -> None:
    found, report = captions(make(tmp_path, {"cat/a.png": None, "dog/b.png": None, "readme.txt": "x", "c.json": "{}"}))
    assert found == {"cat/a": (), "dog/b": ()}
    assert report.counts == {"other-file": 2}


@pytest.mark.parametrize(
    "content", ["0 0.5 0.5 0.1 0.2\n15 0.25 0.5 1e-3 0.2\n", "y" * (1 << 20) + "y"], ids=["yolo", "large"]
)
def test_texts_that_are_no_captions_are_counted(tmp_path: Path, content: str) -> None:
    found, report = captions(make(tmp_path, {"a.png": None, "a.txt": content, "b.png": None, "b.txt": "b"}))
    assert found == {"a": (), "b": ("b",)}
    assert report.counts == {"unreadable-caption": 1, "no-caption": 1}


@pytest.mark.parametrize(
    ("content", "issue"),
    [
        ('{"caption": 3}', "bad-caption"),
        ("{", "unreadable-caption"),
        ("[" * 100_000, "unreadable-caption"),
        ('{"shapes": []}', "other-file"),
    ],
)
def test_json_that_holds_no_caption_is_counted(tmp_path: Path, content: str, issue: str) -> None:
    found, report = captions(make(tmp_path, {"a.png": None, "a.json": content}))
    assert found == {"a": ()}
    assert report.counts == {issue: 1}


def test_outputs_of_img2dataset_below_the_folder_keep_their_captions(tmp_path: Path) -> None:
    for part in ("cc3m", "cc12m"):
        make(
            tmp_path / part,
            {"00000/000000000.jpg": None, "00000/000000000.txt": f"of {part}", "00000_stats.json": '{"count": 1}'},
        )
    found, report = captions(make(tmp_path, {"photos/a.jpg": None, "photos/a.txt": "a"}))
    assert found == {"cc12m/000000000": ("of cc12m",), "cc3m/000000000": ("of cc3m",), "photos/a": ("a",)}
    assert not report.counts
