"""Suppression of overlapping proposals in all classes at once, with NumPy on a CPU and with PyTorch on a GPU.

In each class, a proposal is suppressed by a more probable one that it overlaps and that survives itself. A proposal's
confidence is its best probability among the classes in which it survives. Both ways give the same confidences, bit for
bit.

On a CPU the work is many small steps, which NumPy takes one after the other. PyTorch would share each of them out among
threads and wait for the slowest, hundreds of times per image, while other workers want the same cores.

Shapes: P proposals, C foreground classes (the softmax has C + 1 columns, background first), A classes with a candidate,
K neighbours, the most proposals that one overlaps.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # read for the settings too, where torch would take seconds to import
    from torch import Tensor

CLASSES_AT_ONCE = 256
"""Classes whose neighbours [P, K, A] are in a GPU's memory at a time."""
ROUNDS = 8
"""Rounds of suppression on a GPU between two looks at whether anything changes."""


def overlapping(boxes_xyxy: NDArray[np.float32], threshold: float) -> NDArray[np.bool_]:
    """Return the matrix [P, P] of pairs whose intersection over union is above `threshold`, the diagonal left out."""
    x1, y1, x2, y2 = boxes_xyxy.T
    width = np.minimum(x2[:, None], x2) - np.maximum(x1[:, None], x1)
    height = np.minimum(y2[:, None], y2) - np.maximum(y1[:, None], y1)
    intersection = width.clip(min=0) * height.clip(min=0)
    area = (x2 - x1) * (y2 - y1)
    with np.errstate(invalid="ignore"):  # a pair of empty boxes: 0 / 0, and nan is above nothing
        iou = intersection / (area[:, None] + area - intersection)
    above: NDArray[np.bool_] = iou > np.float64(threshold)  # in double, as torchvision's nms compares
    np.fill_diagonal(above, False)
    return above


def overlapping_torch(boxes_xyxy: Tensor, threshold: float) -> Tensor:
    """Return what `overlapping` returns, bit for bit, on the device of the boxes [P, 4], or of each image [B, P, 4]."""
    import torch

    x1, y1, x2, y2 = boxes_xyxy.unbind(dim=-1)
    width = torch.minimum(x2[..., :, None], x2[..., None, :]) - torch.maximum(x1[..., :, None], x1[..., None, :])
    height = torch.minimum(y2[..., :, None], y2[..., None, :]) - torch.maximum(y1[..., :, None], y1[..., None, :])
    intersection = width.clip(min=0) * height.clip(min=0)
    area = (x2 - x1) * (y2 - y1)
    iou = intersection / (area[..., :, None] + area[..., None, :] - intersection)
    above: Tensor = iou.double() > threshold
    above.diagonal(dim1=-2, dim2=-1).fill_(False)
    return above


def confidence_above(overlaps: NDArray[np.bool_], probs: NDArray[np.float32], floor: float) -> NDArray[np.float32]:
    """Return each proposal's confidence [P], exact where it is at least `floor`, and 0 where it is less.

    overlaps: [P, P] from `overlapping`. probs: [P, C + 1], background first. With floor 0 every value is exact.

    A proposal is only ever suppressed by a more probable one, so what is less probable than `floor` need not be looked
    at: of 1600 classes a few dozen remain, and of each a few proposals. All these classes go through suppression in
    lock-step, one rank of proposals at a time.
    """
    candidates = probs[:, 1:] >= np.float32(floor)  # [P, C]
    classes = np.flatnonzero(candidates.any(axis=0))
    if not len(classes):
        return np.zeros(len(probs), np.float32)
    candidates = candidates.T[classes]  # [A, P]
    scores = probs.T[1 + classes]
    by_rank = descending(scores)[:, : candidates.sum(axis=1).max()].T  # [ranks, A]
    suppressed = np.zeros(scores.shape, bool)
    rows = np.arange(len(classes))
    for proposals in by_rank:
        # A survivor overlaps no earlier survivor (it would not be one), so only later proposals can be hit here.
        survives = ~suppressed[rows, proposals]
        suppressed |= overlaps[proposals] & survives[:, None]
    confidence: NDArray[np.float32] = np.where(candidates & ~suppressed, scores, np.float32(0)).max(axis=0)
    return confidence


def confidence_above_torch(neighbours: Tensor, probs: Tensor, floor: float) -> NDArray[np.float32]:
    """Return what `confidence_above` returns, computed on the device of the tensors.

    neighbours: [P, K] from `neighbours_of`. probs: [P, C + 1], background first.
    """
    import torch

    candidates = probs[:, 1:] >= np.float32(floor).item()
    classes = candidates.any(dim=0).nonzero()[:, 0]
    if not len(classes):
        return np.zeros(len(probs), np.float32)
    confidence = probs.new_zeros(len(probs))
    for chunk in torch.split(classes, CLASSES_AT_ONCE):
        scores = probs[:, 1 + chunk]
        survive = _survivors(neighbours, scores, candidates[:, chunk])
        confidence = torch.maximum(confidence, torch.where(survive, scores, 0).amax(dim=1))
    found: NDArray[np.float32] = confidence.cpu().numpy()
    return found


def neighbours_of(overlaps: Tensor) -> Tensor:
    """Return the proposals [P, K] that each one overlaps, in any order, and P where they are fewer.

    overlaps: [P, P] from `overlapping_torch`.
    """
    if not len(overlaps):
        return overlaps.long()
    most = int(overlaps.sum(dim=1).max())
    overlapped, neighbours = overlaps.half().topk(most, dim=1)
    return neighbours.masked_fill(overlapped == 0, len(overlaps))


def _survivors(neighbours: Tensor, scores: Tensor, candidates: Tensor) -> Tensor:
    """Return which candidates survive in each class: those that no surviving neighbour is ahead of.

    neighbours: [P, K]. scores, candidates: [P, A], the probabilities, and which of them reach the floor.

    Assume that all candidates survive, and drop those that a survivor is ahead of; with these survivors look at all
    candidates again, and so on. After k rounds the first k of each chain of suppressions are decided for good, so the
    last two rounds are equal at the end.
    """
    import torch
    import torch.nn.functional as F

    if not neighbours.shape[1]:
        return candidates
    proposals = len(scores)
    order = scores.argsort(dim=0, descending=True, stable=True)  # of equals the earlier one is ahead
    rank = order.argsort(dim=0)
    survive = before = candidates
    while True:
        for _ in range(ROUNDS):
            before = survive
            ranks = F.pad(torch.where(survive, rank, proposals), (0, 0, 0, 1), value=proposals)
            survive = candidates & (rank < ranks[neighbours].amin(dim=1))
        if torch.equal(survive, before):
            return survive


def descending(values: NDArray[np.float32]) -> NDArray[np.intp]:
    """Return the order of the last axis from the greatest to the least, of equals the earlier first."""
    return np.argsort(-values, axis=-1, kind="stable")
