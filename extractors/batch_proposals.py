"""The proposals of a batch of images on a GPU: padded to the same number, and pooled from a pyramid.

Shapes: B images, K candidates, P proposals, R proposals of all images.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import nms, roi_align

from vilbert.extractors.assemble import to_host
from vilbert.extractors.device import to_device


def suppress_batch(
    compared_xyxy: Tensor, scores: Tensor, is_valid: Tensor, threshold: float, count: int
) -> tuple[Tensor, Tensor]:
    """Return the candidates [B, P] that survive non-maximum suppression, highest score first, and which are there.

    compared_xyxy: [B, K, 4]. scores: [B, K]. is_valid: [B, K], the candidates that take part. count: P; where K is
    less, P is K. An image is one call, and one wait for the GPU: how many survive is known on the CPU.
    """
    count = min(count, scores.shape[1])
    scores = scores.masked_fill(~is_valid, float("-inf"))  # last, so they suppress none that takes part
    kept = [nms(boxes, of_image, threshold)[:count] for boxes, of_image in zip(compared_xyxy, scores, strict=True)]
    survivors = pad_sequence(kept, batch_first=True)
    survivors = torch.nn.functional.pad(survivors, (0, count - survivors.shape[1]))
    counts = to_device(torch.tensor([len(rows) for rows in kept]), scores.device)
    is_there = torch.arange(count, device=scores.device) < counts[:, None]
    return survivors, is_there & is_valid.gather(1, survivors)


def pool_levels(
    levels: list[Tensor], scales: list[float], rois: Tensor, level_of: Tensor, size: tuple[int, int], sampling: int
) -> tuple[Tensor, Tensor]:
    """Pool each region from its level of a pyramid by RoIAlign; one wait for the GPU.

    Args:
        levels: Feature maps [B, channels, H, W], float32.
        scales: Of each level, over pixels of the network's input.
        rois: [R, 5], the image and xyxy in those pixels.
        level_of: [R] int64.
        size: Height and width of a pooled region.
        sampling: Samples per side of a bin.

    Returns:
        Pooled regions [R, channels, *size], those of the first level first, and the order [R] of the `rois` in them.
    """
    by_level = level_of.argsort(stable=True)
    members = level_of[:, None] == torch.arange(len(levels), device=level_of.device)
    counts = regions_per_level(members.sum(dim=0))
    parts = [
        roi_align(level, part, size, scale, sampling)
        for level, scale, part in zip(levels, scales, torch.split(rois[by_level], counts), strict=True)
    ]
    return torch.cat(parts), by_level.argsort()


def regions_per_level(counts: Tensor) -> list[int]:
    """Return the values of a tensor on the device."""
    found: list[int] = to_host({"counts": counts})["counts"].tolist()
    return found
