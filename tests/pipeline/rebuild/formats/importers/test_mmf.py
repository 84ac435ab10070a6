"""MMF's LMDB and its pairs of .npy files, as each of its three extraction scripts writes them."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.detect import detect_format, open_published

from .published import HEIGHT, WIDTH, Hostile, Picture, npy_of_object, pictures, write_lmdb
from .samples import (
    failures_of,
    read_published,
    require_boxes_and_features,
    require_classes,
    require_objects,
    samples_of,
)

SIZES = {"image_width": WIDTH, "image_height": HEIGHT}


def info_of(picture: Picture, script: str) -> tuple[NDArray[Any], dict[str, Any]]:
    """Return the features and the fields that one of MMF's scripts writes."""
    if script == "vmb":
        return picture.features, {
            "bbox": picture.boxes, "num_boxes": picture.regions - 1, "objects": picture.objects,
            "cls_prob": picture.probs[:, 1:], **SIZES,
        }  # fmt: skip
    if script == "vmb --background":
        return picture.features, {
            "bbox": picture.boxes, "num_boxes": picture.regions, "objects": picture.objects + 1,
            "cls_prob": picture.probs, **SIZES,
        }  # fmt: skip
    if script == "frcnn":
        more = np.concatenate([picture.features, picture.features])
        return more, {
            "bbox": picture.boxes, "num_boxes": 100, "objects": picture.objects, "cls_prob": picture.scores,
            "image_width": float(WIDTH), "image_height": float(HEIGHT),
        }  # fmt: skip
    return np.concatenate([picture.features, picture.shares], axis=1), {
        "bbox": picture.shares, "labels": picture.objects + 1, "scores": picture.scores,
        "box_features": picture.features, **SIZES,
    }  # fmt: skip


def write_pairs(folder: Path, found: list[Picture], script: str) -> None:
    for picture in found:
        features, info = info_of(picture, script)
        np.save(folder / f"{picture.image_id}.npy", features)
        (folder / f"{picture.image_id}_info.npy").write_bytes(npy_of_object(info))


@pytest.mark.parametrize("script", ["vmb", "vmb --background", "frcnn", "vinvl"])
@pytest.mark.parametrize("storage", ["npy", "lmdb"])
def test_all_scripts(tmp_path: Path, script: str, storage: str) -> None:
    found, path = pictures(), tmp_path / "features"
    if storage == "npy":
        path.mkdir()
        write_pairs(path, found, script)
    else:
        values = {}
        for picture in found:
            features, info = info_of(picture, script)
            item = {"feature_path": picture.image_id, "features": features, **info}
            values[picture.image_id.encode()] = pickle.dumps(item)
        values[b"keys"] = pickle.dumps([picture.image_id.encode() for picture in found])
        write_lmdb(path, values)
    assert detect_format(path) == f"mmf-{storage}"
    _, rows = read_published(path, top_classes=12)
    for sample, picture in zip(samples_of(rows), found, strict=True):
        require_boxes_and_features(sample, picture)
        require_objects(sample, picture)
        if script.startswith("vmb"):
            require_classes(sample, picture, 12)


def test_features_without_info_are_failures_and_alone_are_refused(tmp_path: Path) -> None:
    write_pairs(tmp_path, pictures(), "vmb")
    (tmp_path / f"{pictures()[1].image_id}_info.npy").unlink()
    (failure,) = failures_of(read_published(tmp_path)[1])
    assert (failure.row, failure.reason) == (1, "broken_row")
    assert failure.detail == f"{pictures()[1].image_id}_info.npy: cannot be read (No such file or directory)"
    for picture in pictures():
        (tmp_path / f"{picture.image_id}_info.npy").unlink(missing_ok=True)
    with pytest.raises(ShardError, match="none of the first 4 rows gives a sample"):
        open_published(tmp_path, "mmf-npy")


def test_a_hostile_info_is_refused_and_runs_nothing(tmp_path: Path) -> None:
    write_pairs(tmp_path, pictures(), "vmb")
    (tmp_path / f"{pictures()[0].image_id}_info.npy").write_bytes(npy_of_object(Hostile(tmp_path / "made")))
    with pytest.raises(ShardError, match=r"refused: row 0 names posix\.mkdir"):
        open_published(tmp_path)
    assert not (tmp_path / "made").exists()


def test_a_conversion_that_wrote_no_row_is_refused(tmp_path: Path) -> None:
    path = write_lmdb(tmp_path / "a.lmdb", {b"keys": pickle.dumps([])})  # as in facebookresearch/mmf issue 613
    with pytest.raises(ShardError, match="holds no rows; the output would be empty"):
        open_published(path, "mmf-lmdb")
