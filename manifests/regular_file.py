"""Open regular files only: reading a pipe or device could block forever."""

from __future__ import annotations

import errno
import os
import stat


def open_regular(path: str, flags: int) -> int:
    """Open a regular file, as the `opener` of `open`. Raise OSError for a pipe, a device, a socket or a folder."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file", path)
    return descriptor


def require_regular(path: str | os.PathLike[str]) -> None:
    """Raise OSError if a path is not a regular file. For libraries that open the file themselves."""
    os.close(open_regular(os.fspath(path), os.O_RDONLY | os.O_CLOEXEC))
