"""Weights of linear layers in bfloat16 for a step on a GPU, made from the float32 parameters in one launch.

Autocast converts each weight by itself, and each gradient back: in the 6-layer model 1,100 of 3,100 launches of a step.
Here the weights of all linear layers are converted together before a step, and their gradients after it. The
parameters, which are saved, evaluated and updated, stay float32, and the numbers are those of autocast: bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vilbert.model.operators import Linear


class _Pair(NamedTuple):
    parameter: Tensor
    working: Tensor
    """bfloat16, a leaf."""
    gradient: Tensor | None
    """float32, what the parameter's gradient is put into; None where it has none."""


class WorkingWeights:
    """The working weights of a model, which its linear layers read in training mode."""

    def __init__(self, model: nn.Module, tied: frozenset[str]) -> None:
        """Make them, for a model that lies on its GPU.

        tied: names of parameters that belong to other modules too; those stay autocast's.
        """
        self._pairs: list[_Pair] = []
        for name, module in model.named_modules():
            if isinstance(module, Linear) and f"{name}.weight" not in tied:
                bias = None if module.bias is None else self._add(module.bias)
                module.working = (self._add(module.weight), bias)

    def _add(self, parameter: Tensor) -> Tensor:
        working = torch.empty_like(parameter, dtype=torch.bfloat16).detach()
        working.requires_grad_(parameter.requires_grad)
        gradient = torch.empty_like(parameter).detach() if parameter.requires_grad else None
        self._pairs.append(_Pair(parameter, working, gradient))
        return working

    @property
    def gradients(self) -> dict[Tensor, Tensor]:
        """What the gradients of parameters are put into."""
        return {pair.parameter: pair.gradient for pair in self._pairs if pair.gradient is not None}

    @torch.no_grad()
    def refresh(self) -> None:
        """Convert the parameters as they are now."""
        torch._foreach_copy_([pair.working for pair in self._pairs], [pair.parameter for pair in self._pairs])

    @torch.no_grad()
    def collect(self) -> None:
        """Move the gradients of a backward pass to the parameters, adding to those of passes before it."""
        first: list[tuple[Tensor, Tensor]] = []
        more: list[tuple[Tensor, Tensor]] = []
        for parameter, gradient, found in self._found():
            (first if parameter.grad is None else more).append((gradient, found))
            parameter.grad = gradient
        if first:
            torch._foreach_copy_([gradient for gradient, _ in first], [found for _, found in first])
        if more:
            torch._foreach_add_([gradient for gradient, _ in more], [found.float() for _, found in more])

    def _found(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for parameter, working, gradient in self._pairs:
            if gradient is not None and working.grad is not None:
                yield parameter, gradient, working.grad
                working.grad = None


def working_weights(model: nn.Module, *, device: torch.device, bfloat16: bool, bare: bool) -> WorkingWeights | None:
    """Return the working weights of a model, or None where it trains without.

    bare: whether the model goes forward as it is. DistributedDataParallel waits for the parameters' own gradients, and
    torch.compile converts weights within its kernels.
    """
    if not (bfloat16 and bare and device.type == "cuda"):
        return None
    tied = getattr(model, "_tied_weights_keys", None) or {}
    return WorkingWeights(model, frozenset(tied))
