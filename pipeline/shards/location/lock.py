"""The lock of an output folder, which ensures a single writer."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from vilbert.pipeline.errors import LockedError
from vilbert.pipeline.shards.location.process import this_process

LOCK_FILE = ".lock"
_held: set[int] = set()


def _close_inherited() -> None:
    # A forked child would keep the lock alive after its parent was killed.
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_inherited)


class FolderLock:
    """The lock of an open lock file, shared by several holders or exclusive to one."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor

    def take(self, *, shared: bool = False) -> bool:
        """Take the lock if it is free, replacing the lock that this process holds; return whether it was taken.

        Raises:
            LockedError: The file system has no locks.
        """
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:  # what the kernel says of a file system without locks
            raise LockedError(
                f"{self._path.parent}: its file system does not lock files ({error.strerror}), so two runs could write "
                "at the same time; mount it with locks (Lustre: -o flock; NFS 3: its lock service), or use another "
                "folder"
            ) from error
        return True

    def release(self) -> None:
        """Release the lock."""
        fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def sign(self, holder: str) -> None:
        """Write the name of the holder to the lock file, for messages."""
        signature = f"{holder}\n".encode()
        os.pwrite(self._descriptor, signature, 0)  # before the file is cut: a reader never finds it empty
        os.ftruncate(self._descriptor, len(signature))

    def holder(self) -> str:
        """Return the name written last. The file is opened again, because NFS may serve an open file from its cache."""
        try:
            with self._path.open("rb") as file:
                signature = file.read(200)
        except FileNotFoundError:  # moved away by hand
            signature = os.pread(self._descriptor, 200, 0)
        return signature.decode(errors="replace").strip() or "another process"

    def refuse(self) -> NoReturn:
        """Raise LockedError with the holder's name."""
        holder = self.holder()
        raise LockedError(
            f"{self._path.parent}: {holder} is writing here; wait for it or stop it, or use another folder"
            f"{_of_a_dead_machine(holder, self._path)}"
        )


@contextlib.contextmanager
def open_lock(directory: Path) -> Iterator[FolderLock]:
    """Open the folder's lock file; leaving the block releases the lock.

    The kernel releases the lock when its process ends, for whatever reason, so there are no stale locks; but a file
    server may keep the lock of a crashed machine. If a mount restricts locks to its own node (NFS with nolock or
    local_lock, Lustre with localflock), writers on two nodes are not prevented, and this cannot be detected here.
    """
    path = directory / LOCK_FILE
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    _held.add(descriptor)
    try:
        yield FolderLock(path, descriptor)
    finally:
        if descriptor in _held:
            _held.discard(descriptor)
            with contextlib.suppress(OSError):  # it is closed all the same
                os.close(descriptor)


@contextlib.contextmanager
def exclusive_writer(directory: Path) -> Iterator[None]:
    """Hold the folder's lock; raise LockedError, with the holder's name, if another process holds it."""
    with open_lock(directory) as lock:
        if not lock.take():
            lock.refuse()
        lock.sign(this_process()["holder"])
        yield
        with contextlib.suppress(
            OSError
        ):  # the file server is unreachable: the lock refers to a process that has ended
            lock.sign("")


def _of_a_dead_machine(holder: str, path: Path) -> str:
    """Return the remedy for a lock of a holder on another machine, which may be dead; "" for this machine."""
    _, on, host = holder.partition(" on ")
    if not on or host == socket.gethostname():
        return ""
    return (
        f". Where {host} died, its file server may keep the lock until it is back: once you are sure that this process "
        f"is gone, move {path} away"
    )
