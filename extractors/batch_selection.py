"""Box selection for a batch of images at once, in tensors of fixed shape: nothing waits for the GPU.

`selection.select` looks at one image, and its arrays have the sizes that it finds there: a GPU has to be waited for to
know them. Here the sizes are bounds. Of each proposal the `CLASSES` most probable classes take part, and of each image
the `PAIRS` most probable pairs of a proposal and a class. The most probable pair that does not take part is the floor:
a confidence above it is exact, because only a more probable pair suppresses another. Where a result depends on
confidences below the floor, or suppression needs more than `ROUNDS` rounds, the image is marked as inexact, and the
caller selects its regions with `selection.select`.

Shapes: B images, P proposals, C foreground classes (the softmax has C + 1 columns, background first), M pairs, N
regions, as many as `settings.max_boxes` or P.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vilbert.extractors.settings import SelectionSettings
from vilbert.extractors.suppression import overlapping_torch

CLASSES = 16
"""Most probable classes of a proposal that take part. The next one is less probable than 1/16."""
PAIRS = 2048
"""Most probable pairs of an image that take part."""
ROUNDS = 16
"""Rounds of suppression: the longest chain of boxes in which each one decides on the next."""


class BatchSelection(NamedTuple):
    """Which proposals of each image to keep."""

    keep: Tensor  # [B, N] int64, of which the first `counts` are kept, in the order in which to keep them
    counts: Tensor  # [B] int64
    confidence: Tensor  # [B, P] float32; that of an unusable proposal is -1
    is_exact: Tensor  # [B] bool, whether the image's selection is the one of `selection.select`


def select_batch(compared_xyxy: Tensor, probs: Tensor, usable: Tensor, settings: SelectionSettings) -> BatchSelection:
    """Return the proposals of each image that `selection.select` keeps of the usable ones.

    compared_xyxy: [B, P, 4] float32. probs: [B, P, C + 1] float32 softmax, background first. usable: [B, P] bool; the
    boxes and probabilities of other proposals may have any value. settings: `selection` is not `maxnms`.
    """
    scores = probs[..., 1:].masked_fill(~usable[..., None], 0)
    confidence, floor, is_settled = _confidences(compared_xyxy, scores, settings.nms)
    confidence = confidence.masked_fill(~usable, -1)
    ordered, by_confidence = confidence.sort(dim=1, descending=True, stable=True)
    available = usable.sum(dim=1)
    most = min(settings.max_boxes, probs.shape[1])

    reaches = confidence >= settings.confidence
    reached = reaches.sum(dim=1)
    if settings.selection == "topk":
        counts = available.clamp(max=most)
        is_exact = is_settled & (_last(ordered, counts) > floor)
        return BatchSelection(by_confidence[:, :most], counts, confidence, is_exact)
    too_few = reached < settings.min_boxes
    counts = torch.where(too_few, available.clamp(max=settings.min_boxes), reached).clamp(max=most)
    is_most_confident = too_few | (reached > most)
    keep = by_confidence
    if settings.selection != "vinvl":
        in_order = (~reaches).to(torch.uint8).argsort(dim=1, stable=True)
        keep = torch.where(is_most_confident[:, None], by_confidence, in_order)
    is_exact = torch.where(is_most_confident, _last(ordered, counts) > floor, floor < settings.confidence)
    return BatchSelection(keep[:, :most], counts, confidence, is_exact & is_settled)


def _last(ordered: Tensor, counts: Tensor) -> Tensor:
    """Return the value [B] at place `counts` - 1 of each row [B, P], infinity if a count is 0."""
    padded = torch.nn.functional.pad(ordered, (1, 0), value=float("inf"))
    return padded.gather(1, counts[:, None])[:, 0]


def _confidences(compared_xyxy: Tensor, scores: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Return the confidences [B, P] above the floor, the floor [B], and whether suppression has ended [B].

    scores: [B, P, C]. A confidence that does not exceed the floor may be too small, and the floor is -1 where all pairs
    take part.
    """
    images, proposals, classes = scores.shape
    most = min(CLASSES, classes)
    best, best_classes = scores.topk(min(most + 1, classes), dim=2)  # [B, P, CLASSES + 1]
    floor = best[..., most:].flatten(1).amax(dim=1) if classes > most and proposals else scores.new_full((images,), -1)
    best, best_classes = best[..., :most].flatten(1), best_classes[..., :most].flatten(1)
    # Stable: of equal probabilities of a class, the earlier proposal is ahead, as in `suppression.py`.
    best, order = best.sort(dim=1, descending=True, stable=True)
    if best.shape[1] > PAIRS:
        floor = torch.maximum(floor, best[:, PAIRS])
        best, order = best[:, :PAIRS], order[:, :PAIRS]
    rows, labels = order // max(most, 1), best_classes.gather(1, order)  # [B, M]

    image = torch.arange(images, device=scores.device)[:, None, None]
    suppresses = overlapping_torch(compared_xyxy, threshold)[image, rows[:, :, None], rows[:, None, :]]
    suppresses &= labels[:, :, None] == labels[:, None, :]
    suppresses = suppresses.tril_(-1).to(torch.float16)  # [B, M, M]: whether the second pair is ahead of the first
    survive = before = torch.ones_like(best, dtype=torch.float16)
    for _ in range(ROUNDS):  # see `suppression._survivors`
        before = survive
        suppressed = torch.bmm(suppresses, survive[..., None])[..., 0]
        survive = torch.eq(suppressed, 0, out=torch.empty_like(suppressed))
    confidence = scores.new_zeros(images, proposals).scatter_reduce_(1, rows, best * survive, "amax")
    return confidence, floor, (survive == before).all(dim=1)
