"""The region proposal network: from feature maps to the proposals of each image.

Shapes: B images, L levels, A anchors of a cell, P proposals.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vilbert.extractors.assemble_batch import rows_of
from vilbert.extractors.batch_proposals import suppress_batch
from vilbert.extractors.detectors.visual_genome.conventions import Conventions
from vilbert.extractors.detectors.visual_genome.geometry import clip, comparable, decode, last_pixel, suppress


class ProposalHead(nn.Module):
    """A 3x3 convolution, and from it a score and four deltas for each anchor; one head for all levels."""

    def __init__(self, inputs: int, hidden: int, anchors: int, logits: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, hidden, 3, padding=1)
        self.objectness = nn.Conv2d(hidden, anchors * logits, 1)
        self.deltas = nn.Conv2d(hidden, anchors * 4, 1)
        self._logits = logits

    def hidden(self, level: Tensor) -> Tensor:
        """Return the hidden map [B, C, H, W]."""
        return F.relu_(self.conv(level))

    def scores_and_deltas(self, hidden: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scores [B, H * W * A] of "object", before a sigmoid, and the deltas [B, H * W * A, 4]."""
        scores: Tensor = self.objectness(hidden)
        if self._logits == 2:  # orders as their softmax does, also where that rounds to 1
            background, foreground = scores.chunk(2, dim=1)
            scores = foreground - background
        deltas: Tensor = self.deltas(hidden)
        return scores.permute(0, 2, 3, 1).flatten(1), deltas.permute(0, 2, 3, 1).reshape(len(deltas), -1, 4)


def propose(
    scores: list[Tensor],  # of each level, one image's [H * W * A]
    deltas: list[Tensor],  # [H * W * A, 4]
    anchors: list[Tensor],  # [H * W * A, 4]
    clip_shape: tuple[int, int],
    min_size: float,
    conventions: Conventions,
) -> Tensor:
    """Return one image's proposals [P, 4], the most object-like first.

    min_size: in pixels of the resized image.
    """
    levels = [
        _propose_at_level(*level, clip_shape, min_size, conventions)
        for level in zip(scores, deltas, anchors, strict=True)
    ]
    boxes, kept_scores = (torch.cat(parts) for parts in zip(*levels, strict=True))
    order = kept_scores.sort(descending=True, stable=True).indices
    return boxes[order[: conventions.rpn_post_nms]]


def _propose_at_level(
    scores: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    clip_shape: tuple[int, int],
    min_size: float,
    conventions: Conventions,
) -> tuple[Tensor, Tensor]:
    """Return the boxes [P, 4] and the scores [P] of one level, the most object-like first."""
    if conventions.rpn_filter == "before_top_k":
        boxes = clip(decode(deltas, anchors, conventions), *clip_shape, conventions)
        large = _large(boxes, min_size, conventions)
        boxes, scores = boxes[large], scores[large]
        best = _best(scores, conventions.rpn_pre_nms)
        boxes, scores = boxes[best], scores[best]
    else:
        best = _best(scores, conventions.rpn_pre_nms)
        boxes = clip(decode(deltas[best], anchors[best], conventions), *clip_shape, conventions)
        large = _large(boxes, min_size, conventions)
        boxes, scores = boxes[large], scores[best][large]
    keep = suppress(boxes, scores, conventions.rpn_nms, conventions)[: conventions.rpn_post_nms]
    return boxes[keep], scores[keep]


def propose_batch(
    scores: list[Tensor],  # of each level [B, H * W * A]
    deltas: list[Tensor],  # [B, H * W * A, 4]
    anchors: list[Tensor],  # [H * W * A, 4]
    clip_shape: tuple[int, int],
    min_sizes: Tensor,  # [B] in pixels of the resized image
    conventions: Conventions,
) -> tuple[Tensor, Tensor]:
    """Return what `propose` returns for each image, padded [B, P, 4], and which proposals are there [B, P].

    On a GPU it takes a few launches for each level, and one wait for each level of each image.
    """
    levels = [
        _propose_batch_at_level(*level, clip_shape, min_sizes, conventions)
        for level in zip(scores, deltas, anchors, strict=True)
    ]
    boxes, kept_scores, is_there = (torch.cat(parts, dim=1) for parts in zip(*levels, strict=True))
    if len(levels) > 1:
        kept_scores = kept_scores.masked_fill(~is_there, float("-inf"))
        order = kept_scores.sort(dim=1, descending=True, stable=True).indices[:, : conventions.rpn_post_nms]
        boxes, is_there = rows_of(boxes, order), is_there.gather(1, order)
    return boxes, is_there


def _propose_batch_at_level(
    scores: Tensor,
    deltas: Tensor,
    anchors: Tensor,
    clip_shape: tuple[int, int],
    min_sizes: Tensor,
    conventions: Conventions,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the boxes [B, P, 4], the scores [B, P] and which are there, the most object-like first."""
    min_sizes = min_sizes[:, None, None]
    if conventions.rpn_filter == "before_top_k":
        every = clip(decode(deltas, anchors, conventions), *clip_shape, conventions)
        large = _large(every, min_sizes, conventions)
        best = _best(scores.masked_fill(~large, float("-inf")), conventions.rpn_pre_nms)
        boxes, large = rows_of(every, best), large.gather(1, best)
    else:
        best = _best(scores, conventions.rpn_pre_nms)
        boxes = clip(decode(rows_of(deltas, best), anchors[best], conventions), *clip_shape, conventions)
        large = _large(boxes, min_sizes, conventions)
    scores = scores.gather(1, best)
    keep, is_there = suppress_batch(
        comparable(boxes, conventions), scores, large, conventions.rpn_nms, conventions.rpn_post_nms
    )
    return rows_of(boxes, keep), scores.gather(1, keep), is_there


def _best(scores: Tensor, count: int) -> Tensor:
    return scores.sort(dim=-1, descending=True, stable=True).indices[..., :count]


def _large(boxes_xyxy: Tensor, min_size: float | Tensor, conventions: Conventions) -> Tensor:
    """Return which boxes [..., 4] are longer than `min_size` on both sides; NaN is not."""
    sides = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    large = sides + last_pixel(conventions) > min_size
    if conventions.boxes == "caffe":
        large &= sides > 0
    return large.all(dim=-1)
