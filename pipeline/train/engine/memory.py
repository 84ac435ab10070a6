"""Too little memory, in words: which device, and which options need less."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from vilbert.pipeline.errors import OutOfMemoryError, first_line, out_of_memory_device


@contextmanager
def explain_out_of_memory(remedy: str) -> Iterator[None]:
    """Raise OutOfMemoryError, which ends with `remedy`, where the block has no memory left on the GPU or the machine.

    remedy: what to do, an imperative sentence without its full stop.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        where = out_of_memory_device(error)
        if where is None:
            raise
        raise OutOfMemoryError(f"out of memory on the {where} ({first_line(error)}). {remedy}") from error
