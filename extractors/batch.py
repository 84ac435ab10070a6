"""What the images of one call must have in common, whichever detector they go to."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray


def common_resized_shape(
    images: Sequence[NDArray[np.uint8]],
    given_boxes: Sequence[NDArray[np.float32] | None],
    resized_shape: Callable[[int, int], tuple[int, int]],
) -> tuple[int, int]:
    """Return the one resized shape of these images; ValueError where there are more, or boxes do not fit."""
    if len(images) != len(given_boxes):
        raise ValueError(f"{len(images)} images with {len(given_boxes)} entries of given boxes")
    for boxes in given_boxes:
        if boxes is not None and (boxes.ndim != 2 or boxes.shape[1] != 4):
            raise ValueError(f"given boxes of shape {list(boxes.shape)}: expected [N, 4] xyxy")
        if boxes is not None and len(boxes) and boxes.max() <= 1:
            raise ValueError(f"given boxes within 0..1, as {boxes[0].tolist()}: expected pixels of the image")
    shapes = {resized_shape(image.shape[0], image.shape[1]) for image in images}
    if len(shapes) > 1:
        raise ValueError(f"images of different resized shapes in one call: {sorted(shapes)}")
    return shapes.pop()
