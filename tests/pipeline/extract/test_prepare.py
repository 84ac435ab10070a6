"""Given boxes of a record, as extraction takes them."""

from __future__ import annotations

import numpy as np
import pytest

from vilbert.extractors.decode import ImageError
from vilbert.manifests.boxes import are_fractions
from vilbert.manifests.record import Box, ImageRecord
from vilbert.pipeline.extract.prepare import given_boxes


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
