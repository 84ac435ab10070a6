"""Regions of some images side by side: what pre-training and tasks have in common.

Shapes: B images, R regions of the one with most (at least 1), D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.train.data.feature_rows import FeaturePart, FeatureRows, lay_out_features


class ImageRegions(Protocol):
    """An image with its regions, such as an `Example`."""

    @property
    def boxes(self) -> NDArray[np.float32]:
        """[N, 4] xyxy in pixels."""

    @property
    def width(self) -> int:
        """In pixels."""

    @property
    def height(self) -> int:
        """In pixels."""


class RegionLayout(NamedTuple):
    """Regions of B images; padding is 0."""

    features: FeatureRows
    """[B, R, D]."""
    boxes_xyxy: NDArray[np.float32]
    """[B, R, 4] in pixels."""
    locations: NDArray[np.float32]
    """[B, R, 5], see `locations`."""
    present: NDArray[np.bool_]
    """[B, R], where a region is."""
    mask: NDArray[np.int64]
    """[B, R], `present` as 1; an image without regions has one of zeros, because attention needs a position."""


def lay_out_regions(
    images: Sequence[ImageRegions | None],
    features: Sequence[Sequence[FeaturePart]],
    counts: NDArray[np.int64],
    *,
    channels: int,
    max_regions: int,
    width: int,
) -> RegionLayout:
    """Lay the first regions of images side by side.

    Args:
        images: None for an image without regions.
        features: Parts of the features of each image; empty for an image without regions.
        counts: int64 [B], number of regions that are used of each image.
        channels: D.
        max_regions: Maximum number of regions of an image; decides the size of buffers.
        width: R.
    """
    present = np.arange(width) < counts[:, None]
    boxes = [image.boxes[:count] for image, count in zip(images, counts.tolist(), strict=True) if image and count]
    boxes_xyxy = spread(present, boxes, np.float32, 4)
    sizes = np.array([(image.width, image.height) if image else (1, 1) for image in images], dtype=np.float64)
    mask = present.astype(np.int64)
    mask[counts == 0, 0] = 1
    return RegionLayout(
        lay_out_features(features, counts.tolist(), channels=channels, most=max_regions, width=width),
        boxes_xyxy,
        locations(boxes_xyxy, sizes),
        present,
        mask,
    )


def locations(boxes_xyxy: NDArray[np.float32], sizes: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return x1, y1, x2, y2 and area as shares of the image, float32 [B, R, 5].

    boxes_xyxy: float32 [B, R, 4] in pixels. sizes: [B, 2] width and height of the images. The area is that of the
    pixel box, without the pixel that overlaps count. Source: `BertPreprocessBatch` of jiasenlu/vilbert_beta.
    """
    located = np.empty((*boxes_xyxy.shape[:2], 5), dtype=np.float32)
    located[..., :4] = boxes_xyxy / np.tile(sizes, 2)[:, None].astype(np.float32)
    sides = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    located[..., 4] = sides[..., 1] * sides[..., 0] / sizes.prod(axis=1)[:, None].astype(np.float32)
    return located


def spread(present: NDArray[np.bool_], rows: Sequence[NDArray[Any]], dtype: type, last: int) -> NDArray[Any]:
    """Return zeros [B, R, last] with the concatenated `rows` where regions are."""
    found = np.zeros((*present.shape, last), dtype=dtype)
    if rows:
        found[present] = np.concatenate(rows)
    return found
