"""Count the operations of a forward pass with PyTorch's counter, to check `vilbert.pipeline.train.engine.flops`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from vilbert.model.cpu import ONEDNN


def counted_flops(forward: Callable[[], object]) -> int:
    """Return what torch's own counter sees of a forward pass; attention in plain steps, which it can count."""
    products = {torch.ops.mkldnn._linear_pointwise: linear_flops} if ONEDNN else {}
    with FlopCounterMode(display=False, custom_mapping=products) as counter, sdpa_kernel(SDPBackend.MATH):
        forward()
    return int(counter.get_total_flops())


def linear_flops(rows: tuple[int, ...], weight: tuple[int, ...], *_: object, **__: object) -> int:
    """Return the operations of oneDNN's product of rows [M, I] and weight [O, I], unknown to torch's counter."""
    return 2 * rows[0] * rows[1] * weight[0]
