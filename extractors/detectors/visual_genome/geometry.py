"""Box arithmetic under the conventions of each port. All boxes are xyxy in pixels of the resized image.

Caffe's and maskrcnn-benchmark's boxes include their last pixel: from x1 to x2 they are x2 - x1 + 1 wide. Where overlaps
count it, too, they are those of ordinary boxes whose right and bottom sides are moved by 1.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import nms

from vilbert.extractors.detectors.visual_genome.conventions import Conventions
from vilbert.extractors.device import constant

_MAX_LOG_SCALE = math.log(1000 / 16)


def last_pixel(conventions: Conventions) -> int:
    """Return by how much a box is wider than x2 - x1."""
    return 0 if conventions.boxes == "real" else 1


def comparable(boxes_xyxy: Tensor, conventions: Conventions) -> Tensor:
    """Return ordinary boxes [..., 4] with the same intersections over unions."""
    if not conventions.overlap_of_last_pixels:
        return boxes_xyxy
    return boxes_xyxy + constant((0, 0, 1, 1), boxes_xyxy.device)


def clip(boxes_xyxy: Tensor, height: float, width: float, conventions: Conventions) -> Tensor:
    """Return boxes [..., 4] within an image of this size."""
    one = last_pixel(conventions)
    return torch.minimum(boxes_xyxy.clamp(min=0), constant((width - one, height - one) * 2, boxes_xyxy.device))


def decode(
    deltas: Tensor, boxes_xyxy: Tensor, conventions: Conventions, weights: tuple[float, ...] = (1.0, 1.0, 1.0, 1.0)
) -> Tensor:
    """Return boxes [..., 4]: of `boxes_xyxy` [..., 4], moved and scaled by `deltas` [..., 4] (Girshick et al. 2014)."""
    one = last_pixel(conventions)
    size = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2] + one
    centre = boxes_xyxy[..., :2] + 0.5 * size
    deltas = deltas / constant(weights, deltas.device)
    log_scale = deltas[..., 2:].clamp(max=_MAX_LOG_SCALE) if conventions.clamp_deltas else deltas[..., 2:]
    centre = deltas[..., :2] * size + centre
    half = 0.5 * (log_scale.exp() * size)
    return torch.cat([centre - half, centre + half - (1 if conventions.boxes == "maskrcnn" else 0)], dim=-1)


def suppress(boxes_xyxy: Tensor, scores: Tensor, threshold: float, conventions: Conventions) -> Tensor:
    """Return the indices that survive non-maximum suppression, highest score first."""
    keep: Tensor = nms(comparable(boxes_xyxy, conventions), scores, threshold)
    return keep


def cell_anchors(conventions: Conventions, strides: tuple[int, ...]) -> list[Tensor]:
    """Return the anchors [A, 4] of one cell of each level, float32."""
    make = _rounded_anchors if conventions.anchor_rounding == "caffe" else _real_anchors
    anchors = []
    for stride, sizes in zip(strides, conventions.anchor_sizes, strict=True):
        by_ratio_and_size = [[make(stride, size, ratio) for size in sizes] for ratio in conventions.anchor_ratios]
        table = torch.tensor(by_ratio_and_size, dtype=torch.float64)  # [ratios, sizes, 4]
        table = table if conventions.anchor_order == "ratio" else table.transpose(0, 1)
        anchors.append(table.reshape(-1, 4).float())
    return anchors


def _real_anchors(_stride: int, size: float, ratio: float) -> list[float]:
    width = math.sqrt(size**2 / ratio)
    height = ratio * width
    return [-width / 2, -height / 2, width / 2, height / 2]


def _rounded_anchors(stride: int, size: float, ratio: float) -> list[float]:
    width = float(np.round(np.sqrt(stride * stride / ratio)))  # of the cell at this ratio, half to even
    height = float(np.round(width * ratio))
    scale, centre = size / stride, (stride - 1) / 2
    half_x, half_y = (width * scale - 1) / 2, (height * scale - 1) / 2
    return [centre - half_x, centre - half_y, centre + half_x, centre + half_y]


def grid_anchors(cell: Tensor, shape: tuple[int, int], stride: int) -> Tensor:
    """Return the anchors [H * W * A, 4] of a feature map of shape (H, W): rows, then columns, then those of a cell."""
    height, width = shape
    y, x = torch.meshgrid(
        torch.arange(height, device=cell.device) * stride,
        torch.arange(width, device=cell.device) * stride,
        indexing="ij",
    )
    corners = torch.stack([x, y, x, y], dim=-1).reshape(-1, 1, 4)
    return (corners + cell).reshape(-1, 4)
