"""Products of reduced precision as hardware computes them, on a CPU that has no instructions for them."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode


class RoundedProducts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Computes convolutions and linear layers of bfloat16 and float16 in float32, and rounds each result once.

    GPUs and bfloat16 instructions of CPUs do the same. PyTorch does it too on other CPUs, in 15 times the time.
    """

    products = (torch.ops.aten.conv2d.default, torch.ops.aten.linear.default)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator."""
        dtype = args[0].dtype if func in self.products else torch.float32
        if dtype == torch.float32:
            return func(*args, **(kwargs or {}))
        wide = (it.float() if isinstance(it, torch.Tensor) else it for it in args)
        return func(*wide, **(kwargs or {})).to(dtype)
