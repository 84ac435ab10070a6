"""From regions to features, class logits, box deltas and attributes.

Shapes: R regions, D feature channels, C object classes, A attributes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.ops import roi_align, roi_pool

from vilbert.extractors.detectors.visual_genome.backbone import FrozenNorm, PreactivationBlock, stage
from vilbert.extractors.detectors.visual_genome.conventions import Architecture, Conventions
from vilbert.extractors.detectors.visual_genome.geometry import last_pixel


def pool(levels: list[Tensor], strides: tuple[int, ...], rois: Tensor, conventions: Conventions) -> Tensor:
    """Return the regions' parts of the feature maps [R, channels, size, size], float32.

    levels: [B, channels, H, W] each. rois: [R, 5], the row of the image and xyxy in pixels of the resized image.
    """
    levels = [level.float() for level in levels]  # rounded coordinates would be off by pixels
    if len(levels) == 1:
        return _pool_level(levels[0], strides[0], rois, conventions)
    size = conventions.pool_size
    pooled = levels[0].new_zeros(len(rois), levels[0].shape[1], size, size)
    assigned = _levels_of(rois[:, 1:], len(levels), conventions)
    for index, (level, stride) in enumerate(zip(levels, strides, strict=True)):
        rows = (assigned == index).nonzero()[:, 0]
        if len(rows):
            pooled[rows] = _pool_level(level, stride, rois[rows], conventions)
    return pooled


def _pool_level(level: Tensor, stride: int, rois: Tensor, conventions: Conventions) -> Tensor:
    size, scale = conventions.pool_size, 1 / stride
    pooled: Tensor
    if conventions.pooling == "roi_pool":
        pooled = roi_pool(level, rois, size, scale)
    else:
        aligned = conventions.pooling == "roi_align_aligned"
        pooled = roi_align(level, rois, size, scale, conventions.pool_sampling, aligned)
    return pooled


def _levels_of(boxes_xyxy: Tensor, count: int, conventions: Conventions) -> Tensor:
    """Return the level of each box [R]: a box of 224 x 224 pixels is pooled from stride 16 (Lin et al. 2017)."""
    sides = boxes_xyxy[:, 2:] - boxes_xyxy[:, :2] + last_pixel(conventions)
    level = torch.floor(4 + torch.log2(sides.prod(dim=1).sqrt() / 224 + 1e-6))
    return level.clamp(min=2, max=1 + count).long() - 2


class HeadOutputs(NamedTuple):
    """What the box head says of R regions, float32."""

    features: Tensor  # [R, D]
    logits: Tensor  # [R, C + 1] background first
    deltas: Tensor  # [R, C, 4] of the object classes
    last: Tensor  # [R, D] what the predictors read

    def split(self, counts: list[int]) -> list[HeadOutputs]:
        """Return the rows of each image."""
        return [HeadOutputs(*parts) for parts in zip(*(torch.split(values, counts) for values in self), strict=True)]


class Res5Head(nn.Module):
    """The last stage of the ResNet on each region, and its mean."""

    def __init__(self, architecture: Architecture, conventions: Conventions) -> None:
        super().__init__()
        self.res5 = stage(3, architecture, conventions)
        outputs = architecture.res2_channels * 8
        self.res5_norm = FrozenNorm(outputs, conventions.norm_epsilon) if conventions.preactivation else None

    def activate(self, level: Tensor) -> Tensor:
        """Return res4 [B, channels, H, W] as proposals and regions are computed from it."""
        first = self.res5[0]
        return F.relu_(first.norm(level)) if isinstance(first, PreactivationBlock) else level

    def forward(self, pooled: Tensor) -> Tensor:
        """Return the map [R, D, h, w] of pooled regions [R, channels, size, size]."""
        first = self.res5[0]
        if not isinstance(first, PreactivationBlock) or self.res5_norm is None:
            x: Tensor = self.res5(pooled)
            return x
        x = first.activated(pooled, pooled)
        for block in list(self.res5)[1:]:
            x = block(x)
        return F.relu_(self.res5_norm(x))


class ConnectedHead(nn.Module):
    """Two fully connected layers on each region."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.fc6 = nn.Linear(inputs, hidden)
        self.fc7 = nn.Linear(hidden, hidden)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Return both layers' outputs [R, D] after their ReLU."""
        fc6 = F.relu(self.fc6(pooled.flatten(1)))
        return fc6, F.relu(self.fc7(fc6))


class Predictor(nn.Module):
    """Class logits and box deltas; the background's place is that of the file."""

    def __init__(self, inputs: int, classes: int, conventions: Conventions) -> None:
        super().__init__()
        self.cls_score = nn.Linear(inputs, classes + 1)
        self.bbox_pred = nn.Linear(inputs, 4 * (classes + conventions.background_box))
        self._background_first = conventions.background == "first"
        self._background_box = conventions.background_box

    def forward(self, last: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [R, C + 1], background first, and deltas [R, C, 4]."""
        logits: Tensor = self.cls_score(last)
        deltas: Tensor = self.bbox_pred(last).reshape(len(last), self.bbox_pred.out_features // 4, 4)
        if not self._background_first:
            logits = logits.roll(1, dims=1)
        if self._background_box:
            deltas = deltas[:, 1:] if self._background_first else deltas[:, :-1]
        return logits, deltas


class AttributeHead(nn.Module):
    """Attributes of a region from its feature and the embedding of its class (Anderson et al. 2018, section 3.1)."""

    def __init__(self, inputs: int, architecture: Architecture, conventions: Conventions) -> None:
        super().__init__()
        embedding, hidden = architecture.attribute_embedding or 0, architecture.attribute_hidden or 0
        self.embedding = nn.Embedding(architecture.classes + 1, embedding)
        self.hidden = nn.Linear(inputs + embedding, hidden)
        self.score = nn.Linear(hidden, architecture.attributes or 0)
        self._conventions = conventions

    def forward(self, last: Tensor, classes: Tensor) -> Tensor:
        """Return the attributes' probabilities [R, A], without "no attribute".

        last: [R, D]. classes: [R], 0 is the background.
        """
        conventions = self._conventions
        if conventions.background == "last":
            classes = (classes - 1) % self.embedding.num_embeddings
        logits: Tensor = self.score(F.relu(self.hidden(torch.cat([last, self.embedding(classes)], dim=1))))
        if conventions.no_attribute == "absent":
            return logits.softmax(dim=1)
        rows = slice(1, None) if conventions.no_attribute == "first" else slice(None, -1)
        if conventions.no_attribute_dropped == "before_softmax":
            return logits[:, rows].softmax(dim=1)
        return logits.softmax(dim=1)[:, rows]


def level_strides(pyramid: bool) -> tuple[int, ...]:
    """Return the strides of the maps from which proposals are made; regions are pooled from all but p6."""
    return tuple(4 << index for index in range(5)) if pyramid else (16,)


def pooled_inputs(architecture: Architecture, conventions: Conventions) -> int:
    """Return the inputs of fc6."""
    return (architecture.pyramid_channels or 0) * math.prod([conventions.pool_size] * 2)
