"""The whole detector as a module, in steps that a reader and a test can look at one by one."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vilbert.extractors.detectors.visual_genome.backbone import Pyramid, ResNet
from vilbert.extractors.detectors.visual_genome.conventions import Architecture, Conventions
from vilbert.extractors.detectors.visual_genome.geometry import grid_anchors
from vilbert.extractors.detectors.visual_genome.heads import (
    AttributeHead,
    ConnectedHead,
    HeadOutputs,
    Predictor,
    Res5Head,
    level_strides,
    pool,
)
from vilbert.extractors.detectors.visual_genome.proposals import ProposalHead, propose, propose_batch
from vilbert.extractors.device import to_device


class Network(nn.Module):
    """Faster R-CNN, C4 or with a feature pyramid; the names of its parameters are those of a converted file."""

    def __init__(self, architecture: Architecture, conventions: Conventions) -> None:
        super().__init__()
        pyramid = architecture.pyramid_channels
        self.conventions = conventions
        self.strides = level_strides(pyramid is not None)
        self.backbone = ResNet(architecture, conventions, stages=3 if pyramid is None else 4)
        self.pyramid = None if pyramid is None else Pyramid(architecture, pyramid)
        anchors = len(conventions.anchor_ratios) * len(conventions.anchor_sizes[0])
        level_channels = pyramid or architecture.res2_channels * 4
        self.rpn = ProposalHead(level_channels, architecture.rpn_channels, anchors, conventions.objectness_logits)
        self.anchors = nn.ParameterList(nn.Parameter(torch.zeros(anchors, 4)) for _ in self.strides)
        self.head: Res5Head | ConnectedHead
        if pyramid is None or architecture.hidden_channels is None:
            self.head, width = Res5Head(architecture, conventions), architecture.res2_channels * 8
        else:
            width = architecture.hidden_channels
            self.head = ConnectedHead(pyramid * conventions.pool_size**2, width)
        self.feature_dim: int = width
        self.predictor = Predictor(width, architecture.classes, conventions)
        self.attributes = None if architecture.attributes is None else AttributeHead(width, architecture, conventions)

    def levels(self, images: Tensor) -> list[Tensor]:
        """Return of images [B, 3, H, W] the maps from which proposals are made: res4, or p2 to p6."""
        maps = self.backbone(images)
        if self.pyramid is not None:
            levels: list[Tensor] = self.pyramid(maps)
            return levels
        assert isinstance(self.head, Res5Head)
        return [self.head.activate(maps["res4"])]

    def proposals(
        self,
        hidden: list[Tensor],
        image_shapes: list[tuple[int, int]],
        clip_shape: tuple[int, int] | None,
        scale: list[float],
    ) -> list[Tensor]:
        """Return the proposals [P, 4] of each image, in pixels of the resized image.

        hidden: the proposal head's hidden maps, of each level [B, C, H, W], float32.
        image_shapes: (height, width) of the resized images. clip_shape: of the padded images.
        scale: resized over stored pixels, of each image.
        """
        conventions = self.conventions
        outputs = [self.rpn.scores_and_deltas(level) for level in hidden]
        anchors = self._anchors_of(hidden)
        return [
            propose(
                [scores[row] for scores, _ in outputs],
                [deltas[row] for _, deltas in outputs],
                anchors,
                clip_shape if clip_shape is not None and conventions.clip_to == "padded" else shape,
                conventions.rpn_min_size * scale[row],
                conventions,
            )
            for row, shape in enumerate(image_shapes)
        ]

    def batch_proposals(
        self, hidden: list[Tensor], image_shape: tuple[int, int], clip_shape: tuple[int, int], scale: list[float]
    ) -> tuple[Tensor, Tensor]:
        """Return the proposals of each image, padded [B, P, 4], and which are there [B, P]; see `proposals`."""
        conventions = self.conventions
        scores, deltas = zip(*(self.rpn.scores_and_deltas(level) for level in hidden), strict=True)
        min_sizes = torch.tensor([conventions.rpn_min_size * of_image for of_image in scale])
        return propose_batch(
            list(scores),
            list(deltas),
            self._anchors_of(hidden),
            clip_shape if conventions.clip_to == "padded" else image_shape,
            to_device(min_sizes, hidden[0].device),
            conventions,
        )

    def _anchors_of(self, hidden: list[Tensor]) -> list[Tensor]:
        """Return the anchors [H * W * A, 4] of each level."""
        return [
            grid_anchors(cell, (level.shape[2], level.shape[3]), stride)
            for cell, level, stride in zip(self.anchors, hidden, self.strides, strict=True)
        ]

    def pool(self, levels: list[Tensor], rois: Tensor) -> Tensor:
        """Return pooled regions [R, channels, size, size]; rois [R, 5] are rows of images and boxes."""
        if self.pyramid is not None:
            levels = levels[:-1]
        return pool(levels, self.strides[: len(levels)], rois, self.conventions)

    def describe(self, pooled: Tensor, feature_layer: str = "fc7") -> tuple[Tensor, Tensor]:
        """Return the features [R, D] of pooled regions and what the predictors read [R, D]."""
        if isinstance(self.head, Res5Head):
            mean = self.head(pooled).float().mean(dim=(2, 3))
            return mean, mean
        fc6, fc7 = self.head(pooled)
        return (fc6 if feature_layer == "fc6" else fc7).float(), fc7.float()

    def predict(self, features: Tensor, last: Tensor) -> HeadOutputs:
        """Return what the predictor says of features, all float32."""
        logits, deltas = self.predictor(last)
        return HeadOutputs(features, logits, deltas, last)
