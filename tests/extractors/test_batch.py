"""What the images of one call must have in common."""

import numpy as np
import pytest

from vilbert.extractors.batch import common_resized_shape

IMAGES = [np.zeros((40, 30, 3), np.uint8)] * 2


def shape(*boxes: list[list[float]] | None) -> tuple[int, int]:
    given = [None if some is None else np.array(some, np.float32).reshape(-1, 4) for some in boxes]
    return common_resized_shape(IMAGES, given, lambda height, width: (height, width))


def test_boxes_in_pixels_or_none_are_taken() -> None:
    assert shape([[0, 0, 30, 40]], None) == (40, 30)
    assert shape([], [[0, 0, 0.5, 0.5], [1, 1, 2, 2]]) == (40, 30)


def test_fractions_of_the_image_are_refused() -> None:
    with pytest.raises(ValueError, match="expected pixels"):
        shape(None, [[0, 0, 0.5, 0.5], [0.1, 0.2, 1, 1]])
