"""What kind a source is: from its content, whatever its name; refused where it could be two or is none."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.manifests.readers.columns import ColumnNames
from vilbert.manifests.readers.detect import HEAD, Kind, detect_file, detect_kind
from vilbert.manifests.record import ManifestError

TEXT = st.text(max_size=40)
COCO = {"info": {}, "images": [{"file_name": "a.jpg", "id": 1, "width": 3, "height": 2}], "annotations": []}
KARPATHY = {
    "images": [{"filename": "a.jpg", "split": "train", "sentids": [0], "sentences": [{"raw": "a"}]}],
    "dataset": "x",
}


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"a dog\thttp://x/1\na cat\thttp://x/2\n", "conceptual-captions"),
        (b"\xef\xbb\xbfurl\tcaption\r\nhttp://x/1\ta\r\n", "conceptual-captions"),
        (b"url\tcaption\nhttp://x/1\ta, b\n", "conceptual-captions"),
        (b"image_id,uri,caption\n1,http://x/1,a\n", "csv"),
        (b'"image_id","path"\n1,"a\tb.jpg"\n', "csv"),
        (b"url,caption\n", "csv"),
        (b'{"uri": "a.jpg"}\n{"uri": "b.jpg"}\n', "jsonl"),
        (b'{"img_path": "a.jpg", "sentences": ["x"], "id": 1}\n', "jsonl"),
        (b'\n {"path": "a.jpg", "filename": "x", "sentences": [{"raw": "a"}]}', "jsonl"),
        (b"url,caption\nhttp://x/1,a\nhttp://x/2,b\n", "csv"),
        (b"Image URL;Text\r\nhttp://x/1;a, b\r\n", "csv"),
        (b"filepath\ttitle\na.jpg\ta\n", "csv"),
        (b'"url","text"\n"http://x/1","a\nb"\n', "csv"),
        (b"a, image, b\thttp://x/1\na\thttp://x/2\n", "conceptual-captions"),
        (b'{"file_name": "a.png", "text": "a"}\n', "jsonl"),
        (b'{"URL": "http://x/1", "TEXT": "a"}\n', "jsonl"),
        (b'[{"image": "a.jpg", "caption": "a", "image_id": 1}]', "json"),
        (b'[\n {\n  "filename": "a.jpg",\n  "sentences": ["a"]\n }\n]\n', "json"),
        (b"PAR1....", "parquet"),
        (json.dumps(COCO).encode(), "coco"),
        (json.dumps(COCO, indent=1).encode(), "coco"),
        (json.dumps({"annotations": [{"image_id": 1, "id": 2, "caption": "x" * 2 * HEAD}]}).encode()[:HEAD], "coco"),
        (json.dumps(KARPATHY).encode(), "karpathy"),
        (json.dumps(KARPATHY, indent=4).encode(), "karpathy"),
    ],
)
def test_files(content: bytes, kind: str) -> None:
    assert detect_file(content, "f") == kind


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"http://x/1\thttp://x/2\n", "cannot tell"),
        (b"a\tb\n", "cannot tell"),
        (b"url,caption\nhttp://x\ta\nhttp://y\tb\n", "--kind"),
        (b"just some text\n", "--kind"),
        (b"", "empty"),
        (b" \n", "empty"),
        (b"\x1f\x8b\x08", "unpack"),
        (b"PK\x03\x04", "unpack"),
        (b"\xff\xd8\xff\xe0", "give its folder"),
        (b"\x00\x01", "binary"),
        (b'{"a": 1}', "--kind"),
        (b"[1, 2]", "--kind"),
        (json.dumps({**COCO, "annotations": [{"bbox": [1, 2, 3, 4], "iscrowd": 0}]}).encode(), "--given-boxes"),
        (b"x" * HEAD, "--kind"),
        (b"\xff\xfeu\x00r\x00l\x00", "UTF-8"),
        (b'{\n "url": "http://x/1",\n "caption": "a"\n}\n{\n "url": "http://x/2"\n}\n', "one line"),
        (b'{"picture": "http://x/1"}\n', "--uri-column"),
        (b'[{"picture": "a.jpg"}]', "--uri-column"),
        (b"picture,caption\na.jpg,a\n", "--uri-column"),
        (b"http://x/1,a\nhttp://x/2,b\n", "header"),
    ],
)
def test_files_that_are_refused(content: bytes, message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        detect_file(content, "f")


def test_a_box_format_does_not_make_captions_with_a_header_a_table(tmp_path: Path) -> None:
    (tmp_path / "cc.tsv").write_text("url\tcaption\nhttp://x/1\ta, b\n")
    assert detect_kind(tmp_path / "cc.tsv", ColumnNames(box_format="xyxy-normalized")) == "conceptual-captions"
    assert detect_kind(tmp_path / "cc.tsv", ColumnNames(caption="caption")) == "csv"


def touch(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


@pytest.mark.parametrize(
    ("names", "kind"),
    [
        (["a.jpg"], "folder"),
        (["deep/er/a.PNG", "notes.txt"], "folder"),
        (["00000.tar", "00000.parquet", "00000_stats.json"], "img2dataset"),
        (["cc3m-train-0001.tar"], "img2dataset"),
        (["00000.parquet", "00000_stats.json", "00000/000000000.jpg"], "img2dataset"),
        (["00000.parquet", "00000_stats.json"], "parquet"),
        (["README.md", "data/train-00000-of-00001.parquet"], "parquet"),
        (["metadata.jsonl", "a.png"], "folder"),
        (["cc3m/00000.tar", "cc3m/00000_stats.json"], "folder"),
        (["._00000.tar", "a.png"], "folder"),
        ([".Trash/00000.tar", ".cache/a.png", "train.parquet"], "parquet"),
    ],
)
def test_folders(tmp_path: Path, names: list[str], kind: str) -> None:
    assert detect_kind(touch(tmp_path, *names)) == kind


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["00000.tar", "a.jpg"], "--kind"),
        (["notes.txt"], "no images"),
        (["00000.tar", "metadata.jsonl"], "--kind"),
    ],
)
def test_folders_that_are_refused(tmp_path: Path, names: list[str], message: str) -> None:
    with pytest.raises(ManifestError, match=message):
        detect_kind(touch(tmp_path, *names))


def test_absent(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="cannot be read"):
        detect_kind(tmp_path / "none")


@given(st.binary(max_size=200))
def test_any_bytes_have_a_kind_or_are_refused(content: bytes) -> None:
    with contextlib.suppress(ManifestError):
        assert detect_file(content, "f") in get_args(Kind)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=5), st.booleans(), st.sampled_from([None, 1]))
def test_words_of_captions_do_not_mislead(pairs: list[tuple[str, str]], first: bool, indent: int | None) -> None:
    hostile = [
        {"image_id": i, "id": i, "caption": f'{a}"sentences": "bbox": "filename": {b}'}
        for i, (a, b) in enumerate(pairs)
    ]
    document = {"annotations": hostile, **COCO} if first else {**COCO, "annotations": hostile}
    assert detect_file(json.dumps({**document, "annotations": hostile}, indent=indent).encode(), "f") == "coco"
