"""ResNet with frozen batch norms, in the two forms of the published detectors, and the feature pyramid.

Shapes: B images or regions, C channels, H and W of a feature map.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vilbert.extractors.detectors.visual_genome.conventions import Architecture, Conventions


class FrozenNorm(nn.Module):
    """A batch norm with fixed statistics, as a scale and a shift."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, epsilon: float) -> None:
        super().__init__()
        self.epsilon = epsilon
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.zeros(channels))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Return both as float64 [C]."""
        scale = self.weight.double() / (self.running_var.double() + self.epsilon).sqrt()
        return scale, self.bias.double() - self.running_mean.double() * scale

    def forward(self, x: Tensor) -> Tensor:
        """Return x [B, C, H, W] normalised."""
        scale, shift = (values.to(x.dtype)[:, None, None] for values in self.scale_and_shift())
        return x * scale + shift


class ConvNorm(nn.Conv2d):
    """A convolution without bias, and the norm after it."""

    norm: nn.Module | None

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        epsilon: float,
        *,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
    ) -> None:
        padding = dilation * (kernel // 2)
        super().__init__(
            inputs, outputs, kernel, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=False
        )
        self.norm = FrozenNorm(outputs, epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """Return the normalised output [B, C, H, W]."""
        x = super().forward(x)
        return x if self.norm is None else self.norm(x)

    def fold(self) -> None:
        """Make the norm a part of the weights, for good."""
        if isinstance(self.norm, FrozenNorm):
            scale, shift = self.norm.scale_and_shift()
            self.weight = nn.Parameter((self.weight.double() * scale[:, None, None, None]).float(), requires_grad=False)
            self.bias = nn.Parameter(shift.float(), requires_grad=False)
            self.norm = None


def fold_norms(network: nn.Module) -> None:
    """Fold the norms that follow a convolution into it; features change by rounding alone."""
    for module in network.modules():
        if isinstance(module, ConvNorm):
            module.fold()


class BlockShape(NamedTuple):
    """Sizes of a bottleneck block."""

    inputs: int
    width: int
    """Channels of the 3x3 convolution."""
    outputs: int
    stride: int
    dilation: int
    groups: int

    def strides(self, conventions: Conventions) -> tuple[int, int]:
        """Return the strides of the first 1x1 convolution and of the 3x3 one."""
        return (self.stride, 1) if conventions.stride_in_1x1 else (1, self.stride)


class Block(nn.Module):
    """The bottleneck block of ResNet: 1x1, 3x3 and 1x1 convolutions beside a shortcut."""

    def __init__(self, shape: BlockShape, conventions: Conventions) -> None:
        super().__init__()
        epsilon = conventions.norm_epsilon
        inputs, width, outputs, stride, dilation, groups = shape
        first, second = shape.strides(conventions)
        self.shortcut = ConvNorm(inputs, outputs, 1, epsilon, stride=stride) if inputs != outputs else None
        self.conv1 = ConvNorm(inputs, width, 1, epsilon, stride=first)
        self.conv2 = ConvNorm(width, width, 3, epsilon, stride=second, dilation=dilation, groups=groups)
        self.conv3 = ConvNorm(width, outputs, 1, epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, H / stride, W / stride]."""
        shortcut = x if self.shortcut is None else self.shortcut(x)
        x = F.relu_(self.conv1(x))
        x = F.relu_(self.conv2(x))
        return F.relu_(self.conv3(x) + shortcut)


class NormConv(nn.Conv2d):
    """A norm, a ReLU, and the convolution after them."""

    def __init__(self, inputs: int, outputs: int, kernel: int, epsilon: float, *, stride: int, dilation: int) -> None:
        super().__init__(
            inputs, outputs, kernel, stride=stride, padding=dilation * (kernel // 2), dilation=dilation, bias=False
        )
        self.norm = FrozenNorm(inputs, epsilon)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, H / stride, W / stride]."""
        return super().forward(F.relu_(self.norm(x)))


class PreactivationBlock(nn.Module):
    """A bottleneck block whose norms and ReLUs come before the convolutions (He et al. 2016, "Identity mappings")."""

    def __init__(self, shape: BlockShape, conventions: Conventions) -> None:
        super().__init__()
        epsilon = conventions.norm_epsilon
        inputs, width, outputs, stride, dilation, _ = shape  # groups: ResNeXt has none of these
        first, second = shape.strides(conventions)
        self.norm = FrozenNorm(inputs, epsilon)
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False) if inputs != outputs else None
        self.conv1 = nn.Conv2d(inputs, width, 1, stride=first, bias=False)
        self.conv2 = NormConv(width, width, 3, epsilon, stride=second, dilation=dilation)
        self.conv3 = NormConv(width, outputs, 1, epsilon, stride=1, dilation=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return [B, C, H / stride, W / stride]."""
        return self.activated(F.relu_(self.norm(x)), x)

    def activated(self, activated: Tensor, x: Tensor) -> Tensor:
        """Return the same from the activated input; x is for a block without a shortcut."""
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        residual: Tensor = self.conv3(self.conv2(self.conv1(activated)))
        return residual + shortcut


class Stem(nn.Module):
    """A 7x7 convolution and max pooling, each of stride 2."""

    def __init__(self, channels: int, conventions: Conventions) -> None:
        super().__init__()
        self.conv1 = ConvNorm(3, channels, 7, conventions.norm_epsilon, stride=2)
        self.norm = FrozenNorm(3, conventions.norm_epsilon) if conventions.preactivation else None
        self._ceil = conventions.stem_pool == "ceil"

    def forward(self, image: Tensor) -> Tensor:
        """Return of images [B, 3, H, W] the map [B, C, H / 4, W / 4]."""
        x = F.relu_(self.conv1(image if self.norm is None else self.norm(image)))
        if self._ceil:
            # Values are at least 0, so zeros change nothing; a map that is one pixel wide would vanish without them.
            x = F.pad(x, (0, max(0, 3 - x.shape[3]), 0, max(0, 3 - x.shape[2])))
            return F.max_pool2d(x, kernel_size=3, stride=2, padding=0, ceil_mode=True)
        return F.max_pool2d(x, kernel_size=3, stride=2, padding=1)


def stage(index: int, architecture: Architecture, conventions: Conventions) -> nn.Sequential:
    """Return stage res2 (index 0) to res5 (index 3)."""
    kind = PreactivationBlock if conventions.preactivation else Block
    outputs = architecture.res2_channels << index
    inputs = outputs // 2 if index else architecture.stem_channels
    strides, dilation = (1, 2, 2, conventions.res5_stride), conventions.res5_dilation if index == 3 else 1
    blocks = []
    for number in range(architecture.blocks[index]):
        blocks.append(
            kind(
                BlockShape(
                    inputs,
                    architecture.width << index,
                    outputs,
                    stride=strides[index] if number == 0 else 1,
                    dilation=dilation,
                    groups=architecture.groups,
                ),
                conventions,
            )
        )
        inputs = outputs
    return nn.Sequential(*blocks)


class ResNet(nn.Module):
    """The stem and the stages up to res4 (C4), or up to res5 (feature pyramid)."""

    def __init__(self, architecture: Architecture, conventions: Conventions, stages: int) -> None:
        super().__init__()
        self.stem = Stem(architecture.stem_channels, conventions)
        self._names = [f"res{2 + index}" for index in range(stages)]
        for index, name in enumerate(self._names):
            self.add_module(name, stage(index, architecture, conventions))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return the maps by name: stem, res2, ..."""
        maps = {"stem": self.stem(image)}
        x = maps["stem"]
        for name in self._names:
            x = maps[name] = self.get_submodule(name)(x)
        return maps


class Pyramid(nn.Module):
    """Feature pyramid: res2 to res5 to p2 to p6, all of the same number of channels (Lin et al. 2017)."""

    def __init__(self, architecture: Architecture, channels: int) -> None:
        super().__init__()
        inputs = [architecture.res2_channels << index for index in range(4)]
        self.lateral = nn.ModuleList(nn.Conv2d(count, channels, 1) for count in inputs)
        self.output = nn.ModuleList(nn.Conv2d(channels, channels, 3, padding=1) for _ in inputs)

    def forward(self, maps: dict[str, Tensor]) -> list[Tensor]:
        """Return p2 to p6, of strides 4 to 64."""
        x: Tensor = self.lateral[3](maps["res5"])
        levels: list[Tensor] = [self.output[3](x)]
        for index in (2, 1, 0):
            above = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = self.lateral[index](maps[f"res{2 + index}"]) + above
            levels.insert(0, self.output[index](x))
        return [*levels, F.max_pool2d(levels[-1], kernel_size=1, stride=2)]
