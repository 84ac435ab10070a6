"""Where a detector runs, and at which precision."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor, nn

from vilbert.extractors.extractor import ExtractorError

DTYPES = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Of `--precision`: to which autocast converts."""


def resolve_device(wanted: str) -> torch.device:
    """Return the device for `--device`; raise ExtractorError if a GPU is requested and none is available."""
    available = torch.cuda.is_available()
    if wanted == "cuda" and not available:
        raise ExtractorError("--device cuda: torch sees no GPU here; give --device cpu, or see `vilbert doctor`")
    return torch.device("cpu" if wanted == "cpu" or not available else "cuda")


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Return the context of `--precision`: fp32 leaves everything as it is.

    Without autocast's cache of converted weights: it belongs to the process, while two shards are at the detector on
    two CUDA streams. One would read a weight that the other is still converting.
    """
    dtype = DTYPES[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None, cache_enabled=False)


def convert_weights(modules: Iterable[nn.Module], device: torch.device, precision: str) -> None:
    """Convert the weights of convolutions and linear layers that run under `autocast` on a GPU, once and for all.

    Without its cache, autocast would convert them in each pass: two launches for each layer. The values are the same.
    """
    dtype = DTYPES[precision]
    if device.type == "cpu" or dtype is None:
        return
    for module in modules:
        for layer in module.modules():
            if isinstance(layer, (nn.Conv2d, nn.Linear)):
                for parameter in layer.parameters(recurse=False):
                    parameter.data = parameter.data.to(dtype)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on the device. To a GPU it is copied from page-locked memory, without a wait."""
    return page_locked(values, device).to(device, non_blocking=True)


def page_locked(values: Tensor, device: torch.device) -> Tensor:
    """Return a CPU tensor in page-locked memory if the device is a GPU, else the tensor itself."""
    return values.pin_memory() if device.type == "cuda" else values


@lru_cache(maxsize=256)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return float32 values on the device, for reading: copied there once, which is a wait for a GPU."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)
