"""One writer an output folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from pipeline.shards.errors import LockedError

LOCK_FILE = ".lock"
_held: set[int] = set()


def _close_inherited() -> None:
    # A forked child would keep the lock alive after its parent was killed.
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_inherited)


@contextlib.contextmanager
def exclusive_writer(directory: Path) -> Iterator[None]:
    """Hold the folder's lock; raise LockedError, naming the holder, where another process does.

    The kernel frees the lock when its process ends, however it ends, so there are no stale locks.
    """
    path = directory / LOCK_FILE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    _held.add(descriptor)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
            raise LockedError(
                f"{directory}: {holder} is writing here; wait for it or stop it, or choose another --output"
            ) from None
        except OSError as error:  # what the kernel says of a file system without locks
            raise LockedError(
                f"{directory}: its file system does not lock files ({error.strerror}), so nothing would keep two runs "
                "apart; mount it with locks (Lustre: -o flock; NFS: without nolock), or choose another --output"
            ) from error
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        yield
        with contextlib.suppress(OSError):  # a file server that is away: the lock names a process that is gone
            os.ftruncate(descriptor, 0)
    finally:
        if descriptor in _held:
            _held.discard(descriptor)
            with contextlib.suppress(OSError):  # it is closed all the same
                os.close(descriptor)
