"""Linear layers and dropout: PyTorch's operators or, on a CPU, those of `vilbert.model.cpu`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from vilbert.model import cpu


class Linear(nn.Linear):
    """`nn.Linear` with the product of `linear`."""

    working: tuple[Tensor, Tensor | None] | None = None
    """Weight and bias in the dtype that training computes in, kept by the training loop; autocast is then on."""

    def forward(self, input: Tensor) -> Tensor:
        if self.working is not None and self.training:
            return F.linear(input, *self.working)
        return linear(input, self.weight, self.bias)


class Dropout(nn.Dropout):
    """`nn.Dropout` with the masks of `dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        return dropout(input, self.p, self.training)


def linear(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return states [..., I] times the transpose of weight [O, I], plus bias [O]."""
    return (cpu.linear if cpu.serves(states) else F.linear)(states, weight, bias)


def dropout(states: Tensor, rate: float, training: bool) -> Tensor:
    """Return states with each element zeroed with probability `rate` and the others divided by 1 - `rate`."""
    if training and 0 < rate < 1 and cpu.serves(states):
        return cpu.dropout(states, rate)
    return F.dropout(states, rate, training)
