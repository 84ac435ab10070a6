"""Claims of shards by several processes: the tasks of a Slurm array share one output folder with `--shared`.

    DIR/.claims     one byte per shard, 1 if it is done, else 0; the task that writes the shard locks its byte

The kernel, or the file server, releases the locks of a process when it ends for whatever reason, so a claim never
outlives its task, and clocks do not matter. The byte is read under the lock, so that NFS does not answer from a cache.
The bytes are valid while tasks are running; the first task resets them, and the last one deletes the file.
"""

from __future__ import annotations

import fcntl
import os
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Self

CLAIMS_FILE = ".claims"
_DONE = b"\1"


class Claim(Enum):
    """The result of an attempt to claim a shard."""

    OURS = "ours"
    HELD = "held"
    """Another task is making it."""
    DONE = "done"
    """Another task has written it."""


def reset_claims(directory: Path, shards: int) -> None:
    """Mark all shards as unfinished; call it only while no other task is running and before opening `Claims`."""
    descriptor = os.open(directory / CLAIMS_FILE, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.ftruncate(descriptor, 0)
        os.ftruncate(descriptor, shards)
    finally:
        os.close(descriptor)


class Claims:
    """The claims of one process. Its locks end when any descriptor of the file is closed, so open only one at a time.

    Open it while holding the folder's lock, because a command that holds the lock exclusively deletes the file.
    """

    def __init__(self, directory: Path) -> None:
        self._descriptor = os.open(directory / CLAIMS_FILE, os.O_RDWR | os.O_CREAT, 0o644)

    def take(self, shard: int) -> Claim:
        """Claim a shard until `finish` or the end of this process."""
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, shard)
        except (BlockingIOError, PermissionError):  # EAGAIN or EACCES, by the file system
            return Claim.HELD
        if os.pread(self._descriptor, 1, shard) != _DONE:
            return Claim.OURS
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, shard)
        return Claim.DONE

    def finish(self, shard: int) -> None:
        """Mark a claimed shard as finished."""
        os.pwrite(self._descriptor, _DONE, shard)
        fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, shard)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._descriptor)
