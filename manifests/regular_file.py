"""Opening files that may turn out to be pipes or devices, which keep their reader waiting for ever."""

from __future__ import annotations

import os
import stat


def open_regular(path: str, flags: int) -> int:
    """Open a regular file, as an `opener` of `open`; raise OSError for a pipe, a device, a socket or a folder."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is not a regular file")
    return descriptor
