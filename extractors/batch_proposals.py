"""The proposals of a batch of images on a GPU, padded to the same number.

Shapes: B images, K candidates, P proposals.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torchvision.ops import nms

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
