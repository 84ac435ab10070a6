"""From a decoded image to what the network sees. Each port resizes in its own way, and features depend on it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vilbert.extractors.detectors.visual_genome.conventions import Conventions
from vilbert.extractors.device import constant


class Resizing(NamedTuple):
    """The resized size of an image of one size."""

    height: int
    width: int
    scale: float
    """Resized over stored, before the sides were rounded."""


def resizing(height: int, width: int, conventions: Conventions) -> Resizing:
    """Return to which size an image of this size is resized; at least 1 pixel each."""
    short, long = min(height, width), max(height, width)
    least, most = conventions.min_size, conventions.max_size
    match conventions.size_rule:
        case "caffe":
            scale = least / short
            if np.round(scale * long) > most:
                scale = most / long
            sides = (round(height * scale), round(width * scale))  # half to even, as cv2.resize rounds with fx and fy
        case "detectron2":
            scale = least / short
            exact = (float(least), scale * width) if height < width else (scale * height, float(least))
            if max(exact) > most:
                shrink = most / max(exact)
                exact, scale = (exact[0] * shrink, exact[1] * shrink), scale * shrink
            sides = (int(exact[0] + 0.5), int(exact[1] + 0.5))
        case "maskrcnn":
            if long / short * least > most:
                least = round(most * short / long)
            scale = least / short
            sides = (int(least * height / width), least) if width < height else (least, int(least * width / height))
            sides = (height, width) if short == least else sides
    return Resizing(max(1, sides[0]), max(1, sides[1]), scale)


def bgr_pixels(image: NDArray[np.uint8], conventions: Conventions) -> Tensor:
    """Return an RGB image [H, W, 3] in BGR, resized if the conventions resize uint8 pixels with PIL."""
    height, width, _ = resizing(image.shape[0], image.shape[1], conventions)
    if conventions.resize == "pil" and image.shape[:2] != (height, width):
        from PIL import Image

        image = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    return torch.from_numpy(np.ascontiguousarray(image[:, :, ::-1]))


def network_input(bgr: Tensor, stored: tuple[int, int], conventions: Conventions) -> Tensor:
    """Return what the network takes of an image, float32 [3, height, width], resized and normalised.

    bgr: Of `bgr_pixels`, on the network's device. stored: (height, width) of the image before that.
    """
    height, width, scale = resizing(*stored, conventions)
    pixels = bgr.permute(2, 0, 1).float()
    mean, std = (
        constant(values, pixels.device)[:, None, None] for values in (conventions.pixel_mean, conventions.pixel_std)
    )
    if conventions.resize == "torch":
        pixels = F.interpolate(pixels[None], (height, width), mode="bilinear", align_corners=False)[0]
    elif conventions.resize == "cv2":
        pixels = _resize_as_cv2(pixels - mean, height, width, scale)
        return pixels / std
    return (pixels - mean) / std


def _resize_as_cv2(pixels: Tensor, height: int, width: int, scale: float) -> Tensor:
    """Return what `cv2.resize(image, None, fx=scale, fy=scale)` does: the scale is not that of the rounded sides."""
    rows = _positions(height, pixels.shape[1], scale, pixels.device)
    columns = _positions(width, pixels.shape[2], scale, pixels.device)
    pixels = _interpolate(pixels, 1, *rows)
    return _interpolate(pixels, 2, *columns)


def _positions(count: int, limit: int, scale: float, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return of each output pixel the input pixel before it and the share of the next one."""
    position = ((torch.arange(count, dtype=torch.float64) + 0.5) / scale - 0.5).clamp(0, limit - 1)
    before = position.floor().long()
    return before.to(device), (position - before).float().to(device)


def _interpolate(pixels: Tensor, dimension: int, before: Tensor, share: Tensor) -> Tensor:
    after = (before + 1).clamp(max=pixels.shape[dimension] - 1)
    share = share if dimension == 2 else share[:, None]
    first, second = (pixels.index_select(dimension, rows) for rows in (before, after))
    return first + (second - first) * share
