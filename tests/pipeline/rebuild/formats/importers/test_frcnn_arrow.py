"""Arrow files of the LXMERT example of transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.detect import detect_format, open_published

from .published import DIM, HEIGHT, WIDTH, Picture, pictures
from .samples import (
    failures_of,
    read_published,
    require_attributes,
    require_boxes_and_features,
    require_objects,
    samples_of,
)

PADDED = 8
"""Regions that each row is padded to."""
FLOATS = pa.list_(pa.float32(), PADDED)
SCHEMA = pa.schema(
    {
        "attr_ids": FLOATS, "attr_probs": FLOATS, "boxes": pa.list_(pa.list_(pa.float32())), "img_id": pa.int32(),
        "obj_ids": FLOATS, "obj_probs": FLOATS, "roi_features": pa.list_(pa.list_(pa.float32())),
        "sizes": pa.list_(pa.float32(), 2), "preds_per_image": pa.int32(),
    }
)  # fmt: skip


def row_of(number: int, picture: Picture) -> dict[str, Any]:
    def padded(array: Any) -> Any:
        filled = np.zeros((PADDED, *array.shape[1:]), np.float32)
        filled[: len(array)] = array
        return filled.tolist()

    return {
        "attr_ids": padded(picture.attributes), "attr_probs": padded(picture.attribute_scores),
        "boxes": padded(picture.shares[:, :4]), "img_id": number, "obj_ids": padded(picture.objects),
        "obj_probs": padded(picture.scores), "roi_features": padded(picture.features),
        "sizes": [HEIGHT, WIDTH], "preds_per_image": picture.regions,
    }  # fmt: skip


def write(path: Path, rows: list[dict[str, Any]], *, stream: bool = True) -> Path:
    make = pa.ipc.new_stream if stream else pa.ipc.new_file
    with pa.OSFile(str(path), "wb") as file, make(file, SCHEMA) as writer:
        for start in range(0, len(rows), 3):
            writer.write_batch(pa.RecordBatch.from_pylist(rows[start : start + 3], SCHEMA))
    return path


@pytest.mark.parametrize("stream", [True, False])
def test_streams_and_files(tmp_path: Path, stream: bool) -> None:
    found = pictures(5)
    path = write(tmp_path / "a.arrow", [row_of(*one) for one in enumerate(found)], stream=stream)
    assert detect_format(path) == detect_format(tmp_path) == "frcnn-arrow"
    description, rows = read_published(path)
    for number, (sample, picture) in enumerate(zip(samples_of(rows), found, strict=True)):
        require_boxes_and_features(sample, picture, image_id=str(number))
        require_objects(sample, picture)
        require_attributes(sample, picture)
    assert description.fields["features"]["shape"] == ["N", DIM]
    assert "class probabilities" in description.missing


def test_damaged_rows_become_failures(tmp_path: Path) -> None:
    rows = [row_of(*one) for one in enumerate(pictures(6))]
    rows[1]["boxes"] = [[0.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]]
    rows[2]["preds_per_image"] = PADDED + 1
    rows[3]["obj_ids"][0] = 0.5
    rows[4]["sizes"] = [None, 5]
    rows[5]["roi_features"] = None
    failures = failures_of(read_published(write(tmp_path / "a.arrow", rows))[1])
    assert [row.row for row in failures] == [1, 2, 3, 4, 5]
    assert {row.reason for row in failures} == {"broken_row"}


@pytest.mark.parametrize("stream", [True, False])
def test_a_truncated_or_overwritten_file_is_refused(tmp_path: Path, stream: bool) -> None:
    path = write(tmp_path / "a.arrow", [row_of(*one) for one in enumerate(pictures())], stream=stream)
    data = path.read_bytes()
    overwritten = data[:16] + b"\xff" * 200 + data[216:]
    for damaged in (data[: len(data) // 2], data[:40], overwritten if stream else data[:-30] + bytes(30)):
        path.write_bytes(damaged)
        with pytest.raises(ShardError, match=r"a\.arrow"):
            open_published(path, "frcnn-arrow")


def test_another_arrow_file_is_not_of_this_format(tmp_path: Path) -> None:
    path = tmp_path / "a.arrow"
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_stream(file, pa.schema({"a": pa.int32()})):
        pass
    assert detect_format(path) is None
    with pytest.raises(ShardError, match="lacks the columns boxes, img_id, roi_features, sizes"):
        open_published(path, "frcnn-arrow")
