"""Arithmetic of boxes. All are xyxy: left, top, right, bottom."""

from __future__ import annotations

import torch
from torch import Tensor


def clip_boxes(boxes_xyxy: Tensor, height: int, width: int) -> Tensor:
    """Return boxes [..., 4] with x within [0, width] and y within [0, height]."""
    limits = torch.tensor([width, height, width, height], dtype=boxes_xyxy.dtype, device=boxes_xyxy.device)
    return torch.minimum(boxes_xyxy.clamp(min=0), limits)


def scale_boxes(boxes_xyxy: Tensor, from_shape: tuple[int, int], to_shape: tuple[int, int]) -> Tensor:
    """Return boxes [..., 4] of an image of one (height, width) in the pixels of the same image at another."""
    factor_y, factor_x = (to / of for to, of in zip(to_shape, from_shape, strict=True))
    return boxes_xyxy * boxes_xyxy.new_tensor([factor_x, factor_y, factor_x, factor_y])


def resize_given(boxes_xyxy: Tensor, stored: tuple[int, int], resized: tuple[int, int]) -> Tensor:
    """Return given boxes [N, 4] of the stored image, clipped to it, in the pixels of the resized one, all finite.

    A pooler would read memory at a coordinate that is not finite; `assemble_regions` refuses such a box.
    """
    return scale_boxes(clip_boxes(boxes_xyxy.float().nan_to_num(), *stored), stored, resized)
