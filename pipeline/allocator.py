"""glibc's malloc, told to keep the memory that large tensors free.

Left to itself it gives every freed block of over 32 MB back to the system and takes it again page by page, which is a
third of the time of an R50 Faster R-CNN on a CPU. Threads share one arena, for those of their own give memory back
whatever they are told. A process then holds what it held at its peak. Elsewhere than on glibc nothing happens. Source:
mallopt(3).
"""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8
NEVER = -1

ENVIRONMENT = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(NEVER)}
"""Of a process that is to keep its memory from its beginning."""


def keep_freed_memory() -> None:
    """Let this process keep what it frees, in threads that begin from now on, too."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for parameter, value in ((M_ARENA_MAX, 1), (M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, NEVER)):
            libc.mallopt(parameter, value)
