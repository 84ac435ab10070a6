"""Faster float32 linear layers, softmax and dropout on an x86 CPU, in place of PyTorch's own operators.

The rest of `model` calls these functions only where `serves` is true: on the CPU, outside `torch.compile`, and unless
the environment variable VILBERT_CPU_KERNELS is 0. Everywhere else it calls PyTorch's operators. The outputs and
gradients of `linear` and `softmax` equal PyTorch's up to rounding; `dropout` draws other masks of the same
distribution. `benchmarks/README.md` has the gains:

- PyTorch computes float32 products on an x86 CPU with MKL, at 140 to 180 GFLOP/s for a few hundred rows. oneDNN, in the
  same wheel, reaches 180 to 210.
- PyTorch's softmax computes rows shorter than a vector register element by element: a row of 15 takes ten times as long
  as a row of 16.
- `F.dropout` draws at least 32 random bits per element, which takes 4 % of a training step. 16 bits are enough.
- PyTorch's fused attention has no dropout on a CPU, and its backward pass is slower than that of separate steps, so
  `vilbert.model.attention` computes the steps where this module serves.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

VARIABLE = "VILBERT_CPU_KERNELS"


def switched_on(environment: Mapping[str, str]) -> bool:
    """Return whether the environment leaves this module on."""
    return environment.get(VARIABLE) != "0"


enabled = switched_on(os.environ)
"""Whether this module is used at all."""

ONEDNN = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")

MIN_WIDTH = 256
"""Inputs and outputs of a layer, below which a call of oneDNN costs more than it gains."""

VECTOR = 16
"""float32 values in the widest vector register of an x86 CPU."""

LEVELS = 2**16
"""Values of one 16-bit draw."""


def serves(states: Tensor) -> bool:
    """Return whether the functions below are used for these states."""
    return enabled and states.device.type == "cpu" and not torch.compiler.is_compiling()


def linear(states: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return states [..., I] times the transpose of weight [O, I], plus bias [O]; large float32 products by oneDNN."""
    if not _suits_onednn(states, weight):
        return F.linear(states, weight, bias)
    rows: Tensor = OneDnnLinear.apply(states.reshape(-1, states.shape[-1]), weight, bias)
    return rows.view(*states.shape[:-1], len(weight))


def softmax(scores: Tensor) -> Tensor:
    """Return the softmax over the last axis; rows shorter than a vector register are padded with -inf."""
    missing = VECTOR - scores.shape[-1]
    if missing <= 0:
        return torch.softmax(scores, dim=-1)
    return torch.softmax(F.pad(scores, (0, missing), value=-torch.inf), dim=-1)[..., :-missing]


def dropout(states: Tensor, rate: float) -> Tensor:
    """Return states with each element zeroed with probability `rate` and the others divided by 1 - `rate`.

    One draw of 64 bits decides four elements, so the rate is met to within 1/65,536. rate: above 0 and below 1.
    """
    draws = torch.empty(-(-states.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
    kept = draws[: states.numel()].view(states.shape) >= round(rate * LEVELS) - LEVELS // 2
    return states * kept.to(states.dtype).mul_(1 / (1 - rate))


def _suits_onednn(states: Tensor, weight: Tensor) -> bool:
    return (
        ONEDNN
        and min(weight.shape) >= MIN_WIDTH
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

    oneDNN compiles a program of about 0.6 MB for each shape and caches the last 1024. The number of rows varies without
    bound between batches of texts and masks, so it is rounded up: to a multiple of eight and, from 512 rows on, to one
    of 32 numbers between a power of two and the next. Up to eight rows stay as they are: batches of that size have the
    same number of rows each time.
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
