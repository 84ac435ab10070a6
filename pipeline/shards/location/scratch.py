"""Temporary folders on the local disk, under TMPDIR, that are cleaned up even after a kill.

A folder is locked while its process is alive. The kernel releases the lock whenever the process ends, and the next
process that creates a folder deletes unlocked ones.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock

from vilbert.pipeline.errors import ShardError


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    """Provide an empty folder that is deleted at the end of the block. Raise ShardError if it cannot be created."""
    try:
        directory, claim = _claim()
    except OSError as error:
        raise ShardError(
            f"{tempfile.gettempdir()}: cannot create a folder there ({error.strerror}); set TMPDIR to another disk"
        ) from error
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(claim)


def _claim() -> tuple[Path, int]:
    """Return a new folder and the descriptor of its lock; delete the folders of dead processes."""
    base = Path(tempfile.gettempdir()) / f"vilbert-scratch-{os.getuid()}"
    base.mkdir(mode=0o700, exist_ok=True)
    found = base.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode):  # a link may lead to any folder of this user
        raise PermissionError(1, f"{base} is a link or belongs to another user")
    with FileLock(base / ".lock"):  # no other process may see a folder that is created but not yet locked
        for left in base.iterdir():
            if left.is_dir() and not _is_held(left):
                shutil.rmtree(left, ignore_errors=True)
        directory = Path(tempfile.mkdtemp(dir=base))
        claim = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(claim, fcntl.LOCK_EX)
    return directory, claim


def _is_held(directory: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
    return False
