"""ViLBERT's pre-training LMDB of tensorpack, as vilbert_beta and volta write it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.detect import detect_format, open_published

from .published import pack_array, pack_text, pictures, pretraining_lmdb_values, write_lmdb
from .samples import (
    failures_of,
    read_published,
    require_attributes,
    require_boxes_and_features,
    require_classes,
    require_objects,
    samples_of,
)


def test_lists_with_captions(tmp_path: Path) -> None:
    found = pictures()
    path = write_lmdb(tmp_path / "training_feat_all.lmdb", pretraining_lmdb_values(found), subdir=False)
    assert detect_format(path) == detect_format(tmp_path) == "vilbert-pretraining-lmdb"
    description, rows = read_published(path, top_classes=5)
    assert description.missing == ("attributes", "class names")
    for sample, picture in zip(samples_of(rows), found, strict=True):
        require_boxes_and_features(sample, picture)
        require_objects(sample, picture)
        require_classes(sample, picture, 5)
        assert sample.meta["captions"] == [f"a caption of {picture.image_id}"]


def test_mappings_of_volta(tmp_path: Path) -> None:
    (found,) = pictures(1)
    fields = {
        "img_id": pack_text(found.image_id), "img_w": b"\x40", "img_h": b"\x30", "features": pack_array(found.features),
        "boxes": pack_array(found.boxes), "obj_id": pack_array(found.objects.astype("<i8")),
        "obj_conf": pack_array(found.scores), "attr_id": pack_array(found.attributes.astype("<i8")),
        "attr_conf": pack_array(found.attribute_scores),
    }  # fmt: skip
    value = bytes([0x80 | len(fields)]) + b"".join(pack_text(name) + packed for name, packed in fields.items())
    values = {b"00000000": value, b"__keys__": b"\x91\xc4\x0800000000"}
    (sample,) = samples_of(read_published(write_lmdb(tmp_path / "a.lmdb", values))[1])
    require_boxes_and_features(sample, found)
    require_objects(sample, found)
    require_attributes(sample, found)


def test_damaged_values_become_failures(tmp_path: Path) -> None:
    values = pretraining_lmdb_values(pictures(6))
    values[b"00000001"] = values[b"00000001"][:-5]
    values[b"00000002"] = b"\x92\x01\x02"
    values[b"00000003"] = values[b"00000003"].replace(b"<f4", b"<O4")
    values[b"00000004"] = b"\xc7\x03\x05abc"  # an extension type
    values[b"00000005"] += b"\x00"
    _, rows = read_published(write_lmdb(tmp_path / "a.lmdb", values))
    assert [row.row for row in failures_of(rows)] == [1, 2, 3, 4, 5]
    assert "dtype '<O4'" in failures_of(rows)[2].detail
    assert "extension type (5)" in failures_of(rows)[3].detail


def test_pyarrows_serialisation_is_named(tmp_path: Path) -> None:
    values = {b"00000000": b"\x00" * 64, b"__keys__": b"\xff\xff\xff\xff\x10\x00\x00\x00" + bytes(64)}
    path = write_lmdb(tmp_path / "a.lmdb", values)
    assert detect_format(path) == "vilbert-pretraining-lmdb"
    with pytest.raises(ShardError, match="write it again with TENSORPACK_SERIALIZE=msgpack"):
        open_published(path)
