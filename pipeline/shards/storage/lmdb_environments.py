"""The LMDB files that a process has open, so that none is opened twice or used after a fork."""

from __future__ import annotations

import os
import threading
from collections import Counter
from pathlib import Path

import lmdb


class Environments:
    """One environment per process and file, as LMDB requires.

    Readers of the same file share its environment; it is closed with the last reader. A forked child may neither use
    nor re-open inherited environments, so all of them are closed in the child before anything else runs.
    """

    def __init__(self) -> None:
        self._forget()
        os.register_at_fork(after_in_child=self._close_inherited)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[tuple[int, int], lmdb.Environment] = {}
        self._users: Counter[tuple[int, int]] = Counter()

    def _close_inherited(self) -> None:
        for environment in self._open.values():
            environment.close()
        self._forget()  # the lock may have been held by a thread that the child does not have

    def acquire(self, path: Path) -> tuple[tuple[int, int], lmdb.Environment]:
        """Return the environment of the file at `path`, and the identity with which to release it."""
        status = path.stat()
        identity = (status.st_dev, status.st_ino)
        with self._lock:
            if identity not in self._open:
                self._open[identity] = lmdb.open(
                    str(path), subdir=False, readonly=True, lock=False, readahead=False, max_dbs=0, create=False
                )
            self._users[identity] += 1
            return identity, self._open[identity]

    def release(self, identity: tuple[int, int]) -> None:
        """Close the environment if no other reader uses it."""
        with self._lock:
            self._users[identity] -= 1
            if not self._users[identity]:
                del self._users[identity]
                self._open.pop(identity).close()


environments = Environments()
"""The environments of this process. LMDB's rule applies to the process, so only one such object may exist."""
