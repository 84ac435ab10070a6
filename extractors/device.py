"""Where a detector runs, and at which precision."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from vilbert.extractors.extractor import ExtractorError


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
    dtype = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    return torch.autocast(device.type, dtype=dtype, enabled=dtype is not None, cache_enabled=False)


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the CPU on the device. To a GPU it is copied from page-locked memory, without a wait."""
    if device.type == "cpu":
        return values
    return values.pin_memory().to(device, non_blocking=True)


@lru_cache(maxsize=256)
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return float32 values on the device, for reading: copied there once, which is a wait for a GPU."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=torch.float32, device=device)
