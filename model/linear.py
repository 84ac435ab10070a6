"""Linear layers, by oneDNN's float32 matrix product on a CPU.

PyTorch gives float32 products on an x86 CPU to MKL, which reads the weights of a few hundred rows at 140 to 180 GFLOP/s
where oneDNN, that comes in the same wheel, reads them at 180 to 210 (`benchmarks/README.md`). The numbers are those of
`F.linear` up to rounding; in small layers, everywhere else, and under autocast or `torch.compile`, it is `F.linear`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")

LEAST = 256
"""Inputs and outputs of a layer, below which what oneDNN gains is less than what it takes to call it."""


class Linear(nn.Linear):
    """`nn.Linear` with the product of `linear`."""

    working: tuple[Tensor, Tensor | None] | None = None
    """Weight and bias in the dtype that training computes in, kept by the training loop; autocast is then on."""

    def forward(self, input: Tensor) -> Tensor:
        if self.working is not None and self.training:
            return F.linear(input, *self.working)
        return linear(input, self.weight, self.bias)


def linear(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return states [..., I] times the transpose of weight [O, I], plus bias [O]."""
    if not _suits_onednn(states, weight):
        return F.linear(states, weight, bias)
    rows: Tensor = OneDnnLinear.apply(states.reshape(-1, states.shape[-1]), weight, bias)
    return rows.view(*states.shape[:-1], len(weight))


def _suits_onednn(states: Tensor, weight: Tensor) -> bool:
    return (
        ONEDNN
        and min(weight.shape) >= LEAST
        and not torch.compiler.is_compiling()
        and states.device.type == "cpu"
        and states.dtype == weight.dtype == torch.float32
        and states.numel() > 0
        and not torch.is_autocast_enabled("cpu")
    )


def _product(rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    count = len(rows)
    padding = rounded(count) - count
    padded = F.pad(rows, (0, 0, 0, padding)) if padding else rows
    product: Tensor = torch.ops.mkldnn._linear_pointwise(padded, weight, bias, "none", [], "")
    return product[:count]


def rounded(rows: int) -> int:
    """Return the number of rows that a product of `rows` is computed with.

    oneDNN makes a program of some 0.6 MB for each shape it meets, whatever its size, and keeps the last 1024; batches
    of texts, and what is masked of them, have no end of numbers of rows. So there are multiples of eight, and from 512
    on thirty-two numbers between a power of two and the next. Up to eight rows, where a batch of that size has the same
    number each time, all are there.
    """
    step = 1 if rows <= 8 else max(8, 1 << max(rows.bit_length() - 6, 0))
    return -(-rows // step) * step


class OneDnnLinear(torch.autograd.Function):
    """The product of rows [M, I] and weight [O, I], and its three gradients."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight)
        return _product(rows, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        needs_rows, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            _product(gradient, weight.t()) if needs_rows else None,
            gradient.t() @ rows if needs_weight else None,
            gradient.sum(0) if needs_bias else None,
        )
