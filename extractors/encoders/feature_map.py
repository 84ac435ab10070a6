"""What an image encoder gives: a feature map of the image resized to a square.

The square keeps every image at one shape and the position embeddings where they were trained; the aspect ratio is lost,
as in the models' own preprocessing without its centre crop, which would lose regions.

Shapes: B images, D channels, S the square's side in pixels, h = w cells of the map per side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import roi_align
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from vilbert.extractors.boxes import clip_boxes, scale_boxes

ROI_SIZE = 7
SAMPLES = 2
"""RoIAlign of a box: 7 x 7 bins of 2 x 2 samples, whose mean is the feature."""


class FeatureMap(Protocol):
    """An encoder on its device."""

    @property
    def size(self) -> int:
        """S, the side in pixels of the square that it sees."""

    @property
    def feature_dim(self) -> int:
        """D."""

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    def describe(self) -> dict[str, object]:
        """Return, as JSON values, all that the map depends on."""

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Return the maps of RGB images [H, W, 3], float32 [B, D, h, w]."""


def to_squares(
    images: Sequence[NDArray[np.uint8]],
    size: int,
    *,
    mean: Sequence[float],
    std: Sequence[float],
    interpolation: InterpolationMode,
    device: torch.device,
) -> Tensor:
    """Return images resized to a square with antialiasing and normalised, float32 [B, 3, size, size]."""
    squares = []
    for image in images:
        pixels = torch.from_numpy(np.array(image)).to(device).permute(2, 0, 1).float() / 255
        square = transforms.resize(pixels, [size, size], interpolation=interpolation, antialias=True).clamp(0, 1)
        squares.append(transforms.normalize(square, list(mean), list(std)))
    return torch.stack(squares)


def pool_boxes(
    maps: Tensor, boxes_xyxy: Sequence[Tensor], shapes: Sequence[tuple[int, int]], size: int
) -> list[Tensor]:
    """Return the features of boxes, float32 [N, D] of each image: the mean of RoIAlign's bins.

    Args:
        maps: [B, D, h, w] of the square.
        boxes_xyxy: [N, 4] of each image, in pixels of that image.
        shapes: (height, width) of each image.
        size: The square's side in pixels.
    """
    square = (size, size)
    rois = [
        scale_boxes(clip_boxes(boxes.float().nan_to_num(), *shape), shape, square)
        for boxes, shape in zip(boxes_xyxy, shapes, strict=True)
    ]
    pooled = roi_align(maps, rois, ROI_SIZE, spatial_scale=maps.shape[-1] / size, sampling_ratio=SAMPLES, aligned=True)
    return list(torch.split(pooled.mean(dim=(2, 3)), [len(boxes) for boxes in rois]))
