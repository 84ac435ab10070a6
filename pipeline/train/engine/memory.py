"""Too little memory, in words: which device, and which options need less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vilbert.pipeline.errors import OutOfMemoryError, first_line


@contextmanager
def explain_out_of_memory(remedy: str) -> Iterator[None]:
    """Raise OutOfMemoryError, which ends with `remedy`, where the block has no memory left on the GPU or the machine.

    remedy: what to do, an imperative sentence without its full stop.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        where = _device_of(error)
        if where is None:
            raise
        raise OutOfMemoryError(f"out of memory on the {where} ({first_line(error)}). {remedy}") from error


def _device_of(error: Exception) -> str | None:
    """Return the device that has no memory left; None where the error is another."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return "GPU"
    # torch has no type of its own for the CPU's allocator.
    return "CPU" if isinstance(error, MemoryError) or "DefaultCPUAllocator" in str(error) else None
