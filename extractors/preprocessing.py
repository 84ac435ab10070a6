"""How pixels become the input of a network: what differs between code bases that run the same weights.

A detector may offer it so that `vilbert compare` can run it as other code would; see `Adjustable`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import nn

    from vilbert.extractors.extractor import Extractor

Channels = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """Resizing and normalisation of an image."""

    mean: Channels
    """Subtracted from the red, green and blue pixels, 0 to 255."""
    std: Channels
    """By which they are then divided."""
    short_side: int
    """Pixels to which the shorter side is resized; 0 where the size cannot be changed."""
    long_side: int
    """Pixels that the longer side may have at most."""
    square: bool = False
    """Whether the image becomes a square of `short_side`, whatever its shape was."""
    pad_to: tuple[int, int] = (0, 0)
    """(height, width) to which the normalised image is padded at least, with zeros to the right and below."""


@runtime_checkable
class Adjustable(Protocol):
    """An `Extractor` that can be run with other preprocessing, and whose network can be looked at. Optional."""

    @property
    def preprocessing(self) -> Preprocessing:
        """Its own preprocessing."""

    @property
    def network(self) -> nn.Module:
        """Its network."""

    def with_preprocessing(self, changed: Preprocessing) -> Extractor:
        """Return an extractor of the same weights, which are shared, with other preprocessing."""


@contextmanager
def moved_strides(network: nn.Module) -> Iterator[int]:
    """Move the stride of ResNet's blocks to their other convolution for the length of the block.

    Blocks are modules with a 1x1 `conv1` and a 3x3 `conv2` (torchvision, detectron2). The original ResNet, in Caffe,
    has the stride in the 1x1 convolution; torchvision's in the 3x3.

    Yields:
        The number of blocks with a stride. It is 0 for networks of other parts, which stay as they are.
    """
    import torch

    blocks: list[tuple[torch.nn.Conv2d, torch.nn.Conv2d]] = []
    for module in network.modules():
        first, second = getattr(module, "conv1", None), getattr(module, "conv2", None)
        if not isinstance(first, torch.nn.Conv2d) or not isinstance(second, torch.nn.Conv2d):
            continue
        if (first.kernel_size, second.kernel_size) == ((1, 1), (3, 3)) and first.stride != second.stride:
            blocks.append((first, second))

    def swap() -> None:
        for first, second in blocks:
            first.stride, second.stride = second.stride, first.stride

    swap()
    try:
        yield len(blocks)
    finally:
        swap()
