"""The images of one call: what they must have in common, whichever detector they go to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class ResizedImage:
    """An image that `Extractor.resize` has resized, in a thread beside the detector's."""

    stored: tuple[int, int]
    """Height and width of the image before."""
    pixels: Tensor
    """As the extractor's own network takes them, on the CPU."""


def stored_shape(image: NDArray[np.uint8] | ResizedImage) -> tuple[int, int]:
    """Return the (height, width) of an image before it was resized."""
    return image.stored if isinstance(image, ResizedImage) else (image.shape[0], image.shape[1])


def common_resized_shape(
    images: Sequence[NDArray[np.uint8] | ResizedImage],
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
    shapes = {resized_shape(*stored_shape(image)) for image in images}
    if len(shapes) > 1:
        raise ValueError(f"images of different resized shapes in one call: {sorted(shapes)}")
    return shapes.pop()
