"""Files that `vilbert manifest` reads, damaged at random: a manifest or a ManifestError, and no other exception."""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vilbert.manifests.build import build_manifest
from vilbert.manifests.readers.detect import Kind
from vilbert.manifests.readers.table import read_table
from vilbert.manifests.record import ManifestError
from vilbert.manifests.report import Report
from vilbert.manifests.settings import ManifestSettings

# int() takes no more than 4,300 of them.
DIGITS = st.sampled_from([1, 10, 11, 4301]).map(lambda number: "1" * number)
VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text(max_size=5) | DIGITS,
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=3), parts, max_size=3),
    max_leaves=5,
)
BOXES = [[1, 2, 30, 40.5]]
DOCUMENTS: dict[Kind, Any] = {
    "coco": {
        "images": [{"id": 1, "file_name": "a.jpg", "coco_url": "http://x/a.jpg", "width": 4, "height": 3}],
        "annotations": [{"id": 1, "image_id": 1, "caption": "a"}],
    },
    "karpathy": {
        "images": [
            {
                "filename": "a.jpg",
                "filepath": "x",
                "cocoid": 1,
                "split": "train",
                "sentences": [{"raw": "a", "tokens": []}],
            }
        ]
    },
    "json": [{"image": "a.jpg", "caption": ["a", "b"], "image_id": 7, "boxes": BOXES, "width": 100, "height": 100}],
    "jsonl": {"uri": "a.jpg", "captions": ["a"], "image_id": 7, "split": "x", "sha256": "0" * 64, "boxes": BOXES},
}


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Return the path of every value in a document."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, part in parts for place in places(part, (*path, key)))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """Return a copy with the value at a path replaced."""
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], new)
    return copy


def build(tmp_path: Path, **options: Any) -> None:
    """Make a manifest; a ManifestError is as good an answer, any other exception fails the test."""
    (tmp_path / "images").mkdir(exist_ok=True)
    with contextlib.suppress(ManifestError):
        assert build_manifest(ManifestSettings(output=tmp_path / "m.parquet", overwrite=True, **options)) == 0
        json.loads((tmp_path / "m.report.json").read_bytes())


quick = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("kind", DOCUMENTS)
@quick
@given(data=st.data())
def test_a_value_of_a_document_replaced_by_another(tmp_path: Path, kind: Kind, data: st.DataObject) -> None:
    document = DOCUMENTS[kind]
    place = data.draw(st.sampled_from(places(document)))
    content = json.dumps(replaced(document, place, data.draw(VALUES)))
    (tmp_path / "s.json").write_text(content)
    images = tmp_path / "images" if data.draw(st.booleans()) else None
    build(tmp_path, sources=(tmp_path / "s.json",), kind=kind, images=images)


@quick
@given(data=st.data())
def test_a_value_of_given_boxes_or_exclusions_replaced_by_another(tmp_path: Path, data: st.DataObject) -> None:
    (tmp_path / "rows.csv").write_text("image_id,uri,width,height\n1,http://x/a.jpg,100,90\n2,http://x/b.jpg,,\n")
    line = {"image_id": 1, "boxes": BOXES}
    instances = {"annotations": [{"image_id": 1, "bbox": BOXES[0], "iscrowd": 0}]}
    document = data.draw(st.sampled_from([line, instances]))
    place = data.draw(st.sampled_from(places(document)))
    (tmp_path / "boxes.json").write_text(json.dumps(replaced(document, place, data.draw(VALUES))))
    (tmp_path / "ids.json").write_text(json.dumps(data.draw(st.lists(VALUES, max_size=3) | VALUES)))
    form = data.draw(st.sampled_from([None, "xyxy", "cxcywh-normalized"]))
    build(tmp_path, sources=(tmp_path / "rows.csv",), given_boxes=tmp_path / "boxes.json", box_format=form)
    build(tmp_path, sources=(tmp_path / "rows.csv",), exclude_ids=tmp_path / "ids.json")


def tar_bytes() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in (
            ("a.jpg", b"A"),
            ("a.json", b'{"caption": "x", "width": 4}'),
            ("b.jpg", b"B"),
            ("b.txt", b"y"),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


SOURCES: dict[str, bytes] = {
    "s.tsv": b"a cat\thttp://x/a.jpg\na dog\thttp://x/b.jpg\n",
    "s.csv": b'uri,captions,boxes\nhttp://x/a.jpg,"[""a""]","[[1,2,30,40]]"\nhttp://x/b.jpg,,\n',
    "s.jsonl": b'{"uri": "http://x/a.jpg", "caption": "a"}\n{"uri": "b.jpg", "captions": ["b"]}\n',
    "coco.json": json.dumps(DOCUMENTS["coco"]).encode(),
    "dataset_coco.json": json.dumps(DOCUMENTS["karpathy"]).encode(),
    "shards/a.tar": tar_bytes(),
}


@pytest.mark.parametrize("name", SOURCES)
@quick
@given(position=st.floats(0, 1), cut=st.integers(0, 30), new=st.binary(max_size=12))
def test_bytes_of_a_source_replaced_by_others(tmp_path: Path, name: str, position: float, cut: int, new: bytes) -> None:
    data = SOURCES[name]
    at = int(position * len(data))
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data[:at] + new + data[at + cut :])
    source = path.parent if path.suffix == ".tar" else path
    build(tmp_path, sources=(source,), incomplete_shards="read")


@pytest.mark.parametrize("digits", [11, 4301, 100_000])
def test_a_size_of_any_number_of_digits_is_answered(tmp_path: Path, digits: int) -> None:
    (tmp_path / "s.csv").write_text(f"uri,width,height\nhttp://x/a.jpg,640,{'1' * digits}\n")
    assert [(row.width, row.height) for row in read_table(tmp_path / "s.csv", Report(), kind="csv")] == [(640, None)]


@pytest.mark.parametrize(
    "deep", ["[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000, "[" * 100_000]
)
@pytest.mark.parametrize("name", ["s.json", "s.jsonl", "boxes.json", "ids.json", "a.json", "metadata.jsonl"])
def test_nesting_of_any_depth_is_answered(tmp_path: Path, name: str, deep: str) -> None:
    (tmp_path / "photographs").mkdir()
    (tmp_path / "photographs/a.jpg").touch()
    (tmp_path / "rows.csv").write_text("uri\nhttp://x/a.jpg\n")
    (tmp_path / ("photographs" if name in ("a.json", "metadata.jsonl") else "") / name).write_text(deep)
    match name:
        case "boxes.json":
            build(tmp_path, sources=(tmp_path / "rows.csv",), given_boxes=tmp_path / name)
        case "ids.json":
            build(tmp_path, sources=(tmp_path / "rows.csv",), exclude_ids=tmp_path / name)
        case "a.json" | "metadata.jsonl":
            build(tmp_path, sources=(tmp_path / "photographs",))
        case _:
            build(tmp_path, sources=(tmp_path / name,))
            for kind in ("coco", "karpathy", "json", "jsonl"):
                build(tmp_path, sources=(tmp_path / name,), kind=kind, images=tmp_path / "photographs")
