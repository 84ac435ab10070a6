"""Folders of one file per image: MILVLG's .npz and vilbert-multi-task's .npy."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.detect import detect_format, open_published
from vilbert.untrusted import npz_files

from .published import HEIGHT, WIDTH, Hostile, Picture, npy_of_object, pictures
from .samples import (
    failures_of,
    read_published,
    require_attributes,
    require_boxes_and_features,
    require_classes,
    require_objects,
    samples_of,
)


def npz(picture: Picture, **changes: Any) -> bytes:
    """Return a file as MILVLG's `save_roi_features` writes it."""
    info = {
        "image_id": picture.image_id, "image_h": HEIGHT, "image_w": WIDTH, "num_boxes": picture.regions,
        "objects_id": picture.objects, "objects_conf": picture.scores, "attrs_id": picture.attributes,
        "attrs_conf": picture.attribute_scores,
    }  # fmt: skip
    arrays = {
        "x": picture.features, "bbox": picture.boxes, "num_bbox": picture.regions, "image_h": HEIGHT,
        "image_w": WIDTH, "info": {**info, **changes.pop("info", {})}, **changes,
    }  # fmt: skip
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    return file.getvalue()


def npy(picture: Picture) -> bytes:
    """Return a file as vilbert-multi-task's `extract_features.py` writes it, with the ids of `objects` misplaced."""
    return npy_of_object(
        {
            "bbox": picture.boxes, "num_boxes": picture.regions, "objects": picture.probs[1:].argmax(axis=1),
            "image_width": WIDTH, "image_height": HEIGHT, "cls_prob": picture.probs, "image_id": picture.image_id,
            "features": picture.features,
        }
    )  # fmt: skip


def test_npz(tmp_path: Path) -> None:
    found = pictures()
    (tmp_path / "val").mkdir()
    for picture in found:
        (tmp_path / "val" / f"{picture.image_id}.npz").write_bytes(npz(picture))
    (tmp_path / "notes.txt").write_text("not a file of features")
    assert detect_format(tmp_path) == "bottom-up-npz"
    for sample, picture in zip(samples_of(read_published(tmp_path)[1]), found, strict=True):
        require_boxes_and_features(sample, picture)
        require_objects(sample, picture)
        require_attributes(sample, picture)


def test_npz_of_the_version_that_counted_the_background(tmp_path: Path) -> None:
    (found,) = pictures(1)
    counted = {"objects_id": found.objects + 1, "attrs_id": found.attributes + 1}
    (tmp_path / "a.npz").write_bytes(npz(found, info=counted))
    (sample,) = samples_of(read_published(tmp_path, background="first")[1])
    require_objects(sample, found)
    require_attributes(sample, found)
    (tmp_path / "b.npz").write_bytes(npz(found, info={**counted, "objects_id": 0 * found.objects}))
    (failure,) = failures_of(read_published(tmp_path, background="first")[1])
    assert failure.reason == "background_object"


def test_npy(tmp_path: Path) -> None:
    found = pictures()
    for picture in found:
        (tmp_path / f"{picture.image_id}.npy").write_bytes(npy(picture))
    assert detect_format(tmp_path) == "vilbert-npy"
    for sample, picture in zip(samples_of(read_published(tmp_path, top_classes=2)[1]), found, strict=True):
        require_boxes_and_features(sample, picture)
        require_objects(sample, picture)
        require_classes(sample, picture, 2)


def test_damaged_files_become_failures(tmp_path: Path) -> None:
    found = pictures(6)
    files = [npz(picture) for picture in found]
    files[1] = files[1][:-30]
    files[2] = b""
    files[3] = npz(found[3], bbox=found[3].boxes[:, :3])
    member = io.BytesIO()
    with zipfile.ZipFile(member, "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (9, 9), }")
        archive.writestr("bbox.npy", b"")
    files[4] = member.getvalue()
    for number, data in enumerate(files):
        (tmp_path / f"{number}.npz").write_bytes(data)
    os.mkfifo(tmp_path / "6.npz")
    (tmp_path / "7.npz").symlink_to(tmp_path / "nowhere")
    _, rows = read_published(tmp_path)
    assert [row.row for row in failures_of(rows)] == [1, 2, 3, 4, 6, 7]
    assert {row.reason for row in failures_of(rows)} == {"broken_row"}


def test_a_file_that_unpacks_to_gigabytes_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = pictures(2)
    monkeypatch.setattr(npz_files, "MAX_BYTES", 1 << 20)
    (tmp_path / "0.npz").write_bytes(npz(found[0]))
    (tmp_path / "1.npz").write_bytes(npz(found[1], bomb=np.zeros(1 << 20)))
    (failure,) = failures_of(read_published(tmp_path)[1])
    assert "unpacks to more than 1,000 members or 1,048,576 bytes" in failure.detail


@pytest.mark.parametrize("suffix", [".npz", ".npy"])
def test_hostile_files_are_refused_and_run_nothing(tmp_path: Path, suffix: str) -> None:
    (found,) = pictures(1)
    evil = {"image_id": Hostile(tmp_path / "made")}
    data = npz(found, info=evil) if suffix == ".npz" else npy_of_object({"bbox": 0, "features": 0, **evil})
    (tmp_path / f"a{suffix}").write_bytes(data)
    name = "bottom-up-npz" if suffix == ".npz" else "vilbert-npy"
    for format_ in (name, None):
        with pytest.raises(ShardError, match=r"refused: row 0 names posix\.mkdir"):
            open_published(tmp_path, format_)
    assert not (tmp_path / "made").exists()


def test_a_folder_without_such_files_is_refused(tmp_path: Path) -> None:
    assert detect_format(tmp_path) is None
    with pytest.raises(ShardError, match=r"its format is not recognised; give one of these: .*vilbert-lmdb, "):
        open_published(tmp_path)
    with pytest.raises(ShardError, match="holds no rows"):
        open_published(tmp_path, "bottom-up-npz")
    with pytest.raises(ShardError, match="no such file or folder"):
        open_published(tmp_path / "absent")
