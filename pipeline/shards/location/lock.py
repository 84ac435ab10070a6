"""One writer an output folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from vilbert.pipeline.errors import LockedError

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

    The kernel frees the lock when its process ends, however it ends, so there are no stale locks; but a file server may
    keep that of a machine that died. Where a mount keeps locks to its own node (NFS with nolock or local_lock, Lustre
    with localflock), two nodes are not kept apart, and nothing here can tell.
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
                f"{_of_a_dead_machine(holder, path)}"
            ) from None
        except OSError as error:  # what the kernel says of a file system without locks
            raise LockedError(
                f"{directory}: its file system does not lock files ({error.strerror}), so nothing would keep two runs "
                "apart; mount it with locks (Lustre: -o flock; NFS 3: its lock service), or choose another --output"
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


def _of_a_dead_machine(holder: str, path: Path) -> str:
    """Return what to do about the lock of a holder on another machine, which may be gone; nothing for one of this."""
    _, on, host = holder.partition(" on ")
    if not on or host == socket.gethostname():
        return ""
    return (
        f". Where {host} died, its file server may keep the lock until it is back: once you are sure that this process "
        f"is gone, move {path} away"
    )
