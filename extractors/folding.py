"""Batch norms of torchvision's networks folded into the convolutions before them: one launch less for each."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.resnet import BasicBlock, Bottleneck

IN_ORDER = (nn.Sequential, BasicBlock, Bottleneck, IntermediateLayerGetter)
"""Modules that run a convolution and the norm registered after it one after the other."""


@torch.no_grad()
def fold_batch_norms(model: nn.Module) -> None:
    """Fold the norms that follow a convolution into it, for inference; outputs change by rounding alone."""
    for parent in model.modules():
        if not isinstance(parent, IN_ORDER):
            continue
        for (_, layer), (name, norm) in pairwise(list(parent.named_children())):
            if isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                _fold(layer, norm)
                setattr(parent, name, nn.Identity())


def _fold(layer: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    if norm.running_mean is None or norm.running_var is None:
        raise ValueError("a batch norm without running statistics cannot be folded")
    scale = (norm.running_var.double() + norm.eps).rsqrt() * norm.weight.double()
    bias = torch.zeros_like(scale) if layer.bias is None else layer.bias.double()
    shift = (bias - norm.running_mean.double()) * scale + norm.bias.double()
    layer.weight.copy_(layer.weight.double() * scale[:, None, None, None])
    layer.bias = nn.Parameter(shift.to(layer.weight), requires_grad=False)
