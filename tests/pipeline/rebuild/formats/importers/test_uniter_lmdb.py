"""UNITER's LMDB, plain and compressed, with numbers of boxes and sizes from elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from vilbert.manifests.manifest import ManifestWriter
from vilbert.manifests.record import ImageRecord
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.detect import detect_format, open_published

from .published import HEIGHT, WIDTH, Picture, npy_of_object, pack_bytes, pack_text, pictures, uniter_value, write_lmdb
from .samples import (
    failures_of,
    read_published,
    require_boxes_and_features,
    require_classes,
    require_objects,
    samples_of,
)

PIXELS = 0.05
"""What float16 does to boxes of images of 64 pixels."""


def manifest(path: Path, found: list[Picture]) -> Path:
    with ManifestWriter(path) as writer:
        writer.write([ImageRecord(image_id=picture.image_id, uri="", width=WIDTH, height=HEIGHT) for picture in found])
        writer.commit()
    return path


def write(path: Path, found: list[Picture], *, compressed: bool) -> Path:
    values = {f"{picture.image_id}.npz".encode(): uniter_value(picture, compressed=compressed) for picture in found}
    values[b"__keys__"] = json.dumps([key.decode() for key in values]).encode()
    path.parent.mkdir(exist_ok=True)
    return write_lmdb(path, values)


@pytest.mark.parametrize("compressed", [False, True])
def test_both_kinds(tmp_path: Path, compressed: bool) -> None:
    found = pictures()
    path = write(tmp_path / "coco" / "all", found, compressed=compressed)
    assert detect_format(path) == "uniter-lmdb"
    description, rows = read_published(path, image_sizes=manifest(tmp_path / "a.parquet", found), top_classes=3)
    for sample, picture in zip(samples_of(rows), found, strict=True):
        require_boxes_and_features(sample, picture, dtype="float16", pixels=PIXELS)
        require_objects(sample, picture)
        require_classes(sample, picture, 3)
    assert "image sizes" in description.missing


def test_numbers_of_boxes_beside_the_environment_are_used(tmp_path: Path) -> None:
    found = pictures()
    path = write(tmp_path / "coco" / "feat_th0.2_max100_min10_compressed", found, compressed=True)
    counts = {f"{picture.image_id}.npz": picture.regions - 1 for picture in found[:3]}
    counts[f"{found[2].image_id}.npz"] = 99
    (tmp_path / "coco" / "nbb_th0.2_max100_min10.json").write_text(json.dumps(counts))
    _, rows = read_published(path.parent, image_sizes=manifest(tmp_path / "a.parquet", found))
    (failure,) = failures_of(rows)
    assert (failure.row, failure.detail) == (2, f"nbb says 99 boxes, and there are {found[2].regions} features")
    kept = [len(row.regions) for row in rows if row is not failure]  # type: ignore[union-attr]
    assert kept == [found[0].regions - 1, found[1].regions - 1, found[3].regions]


def test_sizes_are_required_and_matched_by_id(tmp_path: Path) -> None:
    found = pictures()
    path = write(tmp_path / "coco" / "all", found, compressed=False)
    with pytest.raises(ShardError, match="give a manifest of the images with --image-sizes"):
        open_published(path)
    _, rows = read_published(path, image_sizes=manifest(tmp_path / "a.parquet", found[1:]))
    (failure,) = failures_of(rows)
    assert (failure.row, failure.reason, failure.image_id) == (0, "no_image_size", found[0].image_id)
    with pytest.raises(ShardError, match=r"--image-sizes .*: no such file"):
        read_published(path, image_sizes=tmp_path / "absent.parquet")


def test_values_with_pickles_are_not_unpickled(tmp_path: Path) -> None:
    found = pictures(2)
    fields = {b"nd": b"\xc3", b"type": b"\xa2|O", b"kind": b"\xc4\x01O", b"shape": b"\x90", b"data": b"\xc4\x01."}
    array = b"\x85" + b"".join(pack_bytes(name) + value for name, value in fields.items())
    arrays = b"\x81" + pack_text("features") + array
    values = {b"0.npz": uniter_value(found[0], compressed=False), b"1.npz": arrays, b"2.npz": npy_of_object({})}
    path = write_lmdb(tmp_path / "all", values)
    found[0].image_id = "0"
    _, rows = read_published(path, image_sizes=manifest(tmp_path / "a.parquet", found[:1]))
    details = [row.detail for row in failures_of(rows)]
    assert details[0] == "holds an array of objects, which could run code"
    assert details[1].startswith("is not MessagePack, or damaged")
