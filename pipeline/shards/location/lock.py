"""A lock file that allows a single writer per output folder."""

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
    """The lock of an open lock file. Shared holders exclude an exclusive one, and vice versa."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path, self._descriptor = path, descriptor

    def take(self, *, shared: bool = False) -> bool:
        """Acquire the lock without waiting, replacing any lock that this process holds. Return whether it succeeded.

        Raises:
            LockedError: The file system does not support locks.
        """
        try:
            fcntl.flock(self._descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:  # raised by file systems without locks
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
        os.pwrite(self._descriptor, signature, 0)  # before truncating: readers never see an empty file
        os.ftruncate(self._descriptor, len(signature))

    def holder(self) -> str:
        """Return the last holder. The file is reopened, because NFS may serve an open file from its cache."""
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
    """Open the folder's lock file. Leaving the block releases the lock.

    The kernel releases the lock whenever its process ends, so there are no stale locks, except that a file server may
    keep the lock of a machine that crashed. If a mount keeps locks local to a node (NFS with nolock or local_lock,
    Lustre with localflock), writers on two nodes do not exclude each other, which cannot be detected here.
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
    """Hold the folder's lock. Raise LockedError, naming the holder, if another process holds it."""
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
    """Return advice about a lock whose holder is on another machine, which may be down; "" for this machine."""
    _, on, host = holder.partition(" on ")
    if not on or host == socket.gethostname():
        return ""
    return (
        f". If {host} crashed, the file server may keep its lock until it restarts: once you are sure that its process "
        f"has ended, move {path} away"
    )
