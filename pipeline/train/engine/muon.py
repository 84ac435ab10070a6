"""Muon for the weight matrices of the layers, beside AdamW for all else.

Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/) replaces the momentum of a matrix by the nearest
matrix whose singular values are about 1, so that every direction is learnt at the same rate. With G the gradient and M
the momentum, an update is

    M <- M + (1 - momentum) (G - M)
    p <- p (1 - lr wd) - lr sqrt(max(1, rows / columns)) orthogonalize(G + momentum (M - G))

torch.optim.Muon computes in bfloat16, one matrix after another. On a CPU that is slow for small matrices; here matrices
of one shape go through each product together, in their own dtype.

Where the attribute `found_inf` is a tensor that holds 1, a step changes neither parameters nor momenta, as with torch's
fused optimizers: so the training loop leaves out a step that is not finite without waiting for the GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the odd polynomial a x + b x^3 + c x^5, which takes singular values in (0, 1] near 1 (Jordan et al., 2024)."""
ITERATIONS = 5
"""Takes singular values from 0.02 to 1 into 0.67 to 1.21."""


def orthogonalize(matrices: Tensor) -> Tensor:
    """Return the nearest matrices with singular values near 1, by Newton-Schulz iteration.

    Args:
        matrices: [..., rows, columns], floating point.

    Returns:
        Matrices of the same shape and dtype; zeros stay zeros.
    """
    tall = matrices.shape[-2] > matrices.shape[-1]
    found: Tensor = matrices.mT if tall else matrices
    found = found / (torch.linalg.matrix_norm(found, keepdim=True) + 1e-7)
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        square = found @ found.mT
        found = a * found + (b * square + c * square @ square) @ found
    return found.mT if tall else found


class Muon(torch.optim.AdamW):
    """AdamW whose groups with `"muon": True` are updated by Muon.

    Such a group holds matrices alone, and a "momentum" beside "lr" and "weight_decay".
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update each parameter that has a gradient."""
        groups = self.param_groups
        try:
            self.param_groups = [group for group in groups if not group.get("muon")]
            super().step(closure)
        finally:
            self.param_groups = groups
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        for group in groups:
            if group.get("muon"):
                self._update(group, found_inf)

    def _update(self, group: dict[str, Any], found_inf: Tensor | None) -> None:
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for parameter in group["params"]:
            if parameter.grad is not None:
                by_shape.setdefault(parameter.shape, []).append(parameter)
        for (rows, columns), parameters in by_shape.items():
            updates = orthogonalize(self._momentum(parameters, group["momentum"], found_inf))
            rate = group["lr"] * max(1.0, rows / columns) ** 0.5
            decay: float | Tensor = group["lr"] * group["weight_decay"]
            if found_inf is not None:
                updates, decay = updates * (1 - found_inf), decay * (1 - found_inf)
            values: list[Tensor] = [*parameters]
            torch._foreach_mul_(values, 1 - decay)
            torch._foreach_add_(values, updates.unbind(), alpha=-rate)

    def _momentum(self, parameters: Sequence[nn.Parameter], momentum: float, found_inf: Tensor | None) -> Tensor:
        """Add the gradients to the momenta; return Nesterov's momenta of the parameters, stacked."""
        for parameter in parameters:
            if not self.state[parameter]:
                self.state[parameter].update(step=torch.tensor(0.0), momentum=torch.zeros_like(parameter))
        momenta = [self.state[parameter]["momentum"] for parameter in parameters]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if found_inf is not None:  # a mean that is moved towards itself stays; NaN times 0 would be NaN
            leaves_out = found_inf.bool()
            gradients = [*torch.where(leaves_out, torch.stack(momenta), torch.stack(gradients)).unbind()]
        torch._foreach_lerp_(momenta, gradients, 1 - momentum)
        return torch.stack(torch._foreach_lerp(gradients, momenta, momentum))
