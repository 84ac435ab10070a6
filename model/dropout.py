"""Dropout, with masks that cost less to draw on a CPU.

`F.dropout` draws a number of 32 bits and more for each element there, 4 % of a training step; here one draw of 64 bits
decides four, so a rate is met to within 1/65,536. On other devices, and in `torch.compile`, it is `F.dropout`.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LEVELS = 2**16  # values of one 16-bit draw


class Dropout(nn.Dropout):
    """`nn.Dropout` with the masks of `dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        return dropout(input, self.p, self.training)


def dropout(states: Tensor, rate: float, training: bool) -> Tensor:
    """Return states with each element zeroed with probability `rate` and the others divided by 1 - `rate`."""
    if states.device.type != "cpu" or not training or not 0 < rate < 1 or torch.compiler.is_compiling():
        return F.dropout(states, rate, training)
    draws = torch.empty(-(-states.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = draws[: states.numel()].view(states.shape) >= round(rate * LEVELS) - LEVELS // 2
    return states * kept.to(states.dtype).mul_(1 / (1 - rate))
