"""ViLBERT's task LMDB in both kinds, with damaged and hostile values."""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.detect import detect_format, open_published

from .published import HEIGHT, WIDTH, Hostile, Picture, pictures, tsv_columns, vilbert_lmdb_values, write_lmdb
from .samples import (
    failures_of,
    read_published,
    require_boxes_and_features,
    require_classes,
    require_objects,
    samples_of,
)


@pytest.mark.parametrize("kind", ["texts", "arrays"])
def test_both_kinds(tmp_path: Path, kind: str) -> None:
    found = pictures()
    path = write_lmdb(tmp_path / "a.lmdb", vilbert_lmdb_values(found, kind))
    assert detect_format(path) == detect_format(path / "data.mdb") == "vilbert-lmdb"
    description, rows = read_published(path, top_classes=3)
    for sample, picture in zip(samples_of(rows), found, strict=True):
        require_boxes_and_features(sample, picture)
        if kind == "texts":
            require_objects(sample, picture)
            require_classes(sample, picture, 3)
    lacking = ("attributes", "class names", "captions")
    assert description.missing == (
        lacking if kind == "texts" else ("objects", "class probabilities", "attributes", "captions")
    )


def store(path: Path, items: list[Any], protocol: int = 3) -> Path:
    return write_lmdb(path, {str(number).encode(): pickle.dumps(item, protocol) for number, item in enumerate(items)})


def arrays(picture: Picture, **changes: Any) -> dict[str, Any]:
    item = {
        "image_id": 7, "image_h": np.int64(HEIGHT), "image_w": float(WIDTH), "num_boxes": np.int64(picture.regions),
        "boxes": picture.boxes, "features": picture.features,
    }  # fmt: skip
    return {**item, **changes}


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_all_protocols_and_mappings(tmp_path: Path, protocol: int) -> None:
    (found,) = pictures(1)
    names = ("image_id", "image_w", "image_h", "num_boxes", "boxes", "features")
    texts = OrderedDict(zip(names, tsv_columns(found, 6), strict=True))
    texts["boxes"] = f"b'{texts['boxes']}'"
    path = store(tmp_path / "a.lmdb", [arrays(found), texts], protocol)
    first, second = samples_of(read_published(path, format="vilbert-lmdb")[1])
    require_boxes_and_features(first, found, image_id="0")
    require_boxes_and_features(second, found, image_id="1")


def test_arrays_of_another_byte_order_and_layout_are_converted(tmp_path: Path) -> None:
    (found,) = pictures(1)
    item = arrays(found, boxes=found.boxes.astype(">f8"), features=np.asfortranarray(found.features.astype(">f4")))
    (sample,) = samples_of(read_published(store(tmp_path / "a.lmdb", [item]))[1])
    require_boxes_and_features(sample, found, image_id="0")


def test_damaged_values_become_failures(tmp_path: Path) -> None:
    (found,) = pictures(1)
    changes: list[dict[str, Any]] = [
        {"boxes": found.boxes[:-1]}, {"features": found.features.astype(int)}, {"image_h": "tall"}, {"boxes": None},
        {"image_w": 0}, {"features": [[1.0]]}, {"num_boxes": "many"},
        {"features": found.features[:0], "boxes": found.boxes[:0]},
    ]  # fmt: skip
    items: list[Any] = [arrays(found), *(arrays(found, **change) for change in changes), ["no", "mapping"], b"bytes"]
    values = {f"{number:02d}".encode(): pickle.dumps(item) for number, item in enumerate(items)}
    values[b"99"] = pickle.dumps(arrays(found))[:-20]
    _, rows = read_published(write_lmdb(tmp_path / "a.lmdb", values))
    reasons = [row.reason for row in failures_of(rows)]
    assert len(rows) - len(reasons) == 2  # the number of boxes is not read
    damaged = ["broken_row", "broken_row", "broken_row"]
    assert reasons == [*damaged, "broken_row", "no_image_size", "broken_row", "no_regions", *damaged]
    assert failures_of(rows)[0].image_id == "01"


@pytest.mark.parametrize("field", ["boxes", "image_id", "extra"])
def test_a_hostile_value_is_refused_and_runs_nothing(tmp_path: Path, field: str) -> None:
    found = pictures(2)
    path = store(tmp_path / "a.lmdb", [arrays(found[0]), arrays(found[1], **{field: Hostile(tmp_path / "made")})])
    with (
        open_published(path, "vilbert-lmdb") as source,
        pytest.raises(ShardError, match=r"a\.lmdb: refused: row 1 names posix\.mkdir"),
    ):
        list(source.read(0, 2))
    hostile = store(tmp_path / "b.lmdb", [{field: Hostile(tmp_path / "made")}])
    for name in ("vilbert-lmdb", None):
        with pytest.raises(ShardError, match=r"refused: row 0 names posix\.mkdir"):
            open_published(hostile, name)
    assert not (tmp_path / "made").exists()


def test_convert_stops_at_a_hostile_value(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = pictures(3)
    items = [arrays(found[0]), arrays(found[1], extra=Hostile(tmp_path / "made")), arrays(found[2])]
    path = store(tmp_path / "a.lmdb", items)
    assert main(["convert", str(path), "--output", str(tmp_path / "data")]) == 1
    message = capsys.readouterr().err
    assert f"{path}: refused: row 1 names posix.mkdir" in message
    assert "Traceback" not in message
    assert not (tmp_path / "made").exists()


def test_objects_inside_arrays_are_no_features(tmp_path: Path) -> None:
    (found,) = pictures(1)
    objects = np.empty((found.regions, 1), object)
    items = [arrays(found), arrays(found, features=objects)]
    (failure,) = failures_of(read_published(store(tmp_path / "a.lmdb", items))[1])
    assert "features is a list, expected an array" in failure.detail
