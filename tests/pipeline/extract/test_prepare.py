"""Given boxes of a record, as extraction takes them, and images that exceed the memory."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vilbert.extractors.decode import DecodeSettings, ImageError
from vilbert.manifests.boxes import are_fractions
from vilbert.manifests.record import Box, ImageRecord
from vilbert.pipeline.extract.prepare import fetch, given_boxes, prepare
from vilbert.pipeline.shards.failures import FailureRow

_FILE = io.BytesIO()
Image.new("RGB", (40, 30)).save(_FILE, "PNG")
PNG = _FILE.getvalue()


def record(*boxes: Box) -> ImageRecord:
    return ImageRecord(image_id="1", uri="1.jpg", boxes_xyxy=boxes)


def test_boxes_in_the_image_are_taken() -> None:
    boxes = given_boxes(record((0.0, 0.0, 0.5, 0.5), (1.0, 2.0, 30.0, 40.0)), 40, 30)
    np.testing.assert_array_equal(boxes, np.float32([[0, 0, 0.5, 0.5], [1, 2, 30, 40]]))


def test_the_first_pixel_is_a_box_as_in_the_manifest() -> None:
    boxes = ((0.0, 0.0, 1.0, 1.0),)
    assert not are_fractions(boxes)
    np.testing.assert_array_equal(given_boxes(record(*boxes), 40, 30), np.array(boxes, np.float32))


@pytest.mark.parametrize(
    ("boxes", "detail"),
    [
        ((), "empty"),
        (((0.0, 0.0, 31.0, 40.0),), "not a box inside 30x40"),
        (((0.1, 0.1, 0.5, 0.5), (0.0, 0.0, 1.0, 1.0)), "--box-format"),
    ],
)
def test_other_boxes_fail_the_image(boxes: tuple[Box, ...], detail: str) -> None:
    with pytest.raises(ImageError, match=detail) as caught:
        given_boxes(record(*boxes), 40, 30)
    assert caught.value.reason == "bad_boxes"


@pytest.mark.parametrize("place", ["read", "decode", "turn"])
def test_an_image_without_memory_is_a_failure_of_that_row(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Any:
        raise MemoryError

    if place != "read":
        monkeypatch.setattr("vilbert.extractors.decode." + {"decode": "to_rgb", "turn": "upright"}[place], full)
    reader = SimpleNamespace(read=full if place == "read" else lambda *_: PNG)
    row = prepare(3, ImageRecord(image_id="1", uri="1.png"), DecodeSettings(), lambda: fetch("1.png", 10**6, reader))  # type: ignore[arg-type]
    assert isinstance(row, FailureRow)
    assert (row.row, row.reason) == (3, "out_of_memory")
