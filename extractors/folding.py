"""Batch norms of torchvision's networks folded into the convolutions before them: one launch less for each."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
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
            if not (isinstance(layer, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)):
                continue
            mean, variance = norm.running_mean, norm.running_var
            if mean is not None and variance is not None:
                layer.weight, layer.bias = fuse_conv_bn_weights(
                    layer.weight, layer.bias, mean, variance, norm.eps, norm.weight, norm.bias
                )
                setattr(parent, name, nn.Identity())
