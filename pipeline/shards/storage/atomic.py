"""Files that appear complete or not at all.

A file is written under a temporary name beside its final one, fsynced and renamed, and its folder is fsynced. Files
that a killed run leaves behind are recognised by their name, `.FINAL.PID.UNIQUE.tmp`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
from pathlib import Path
from typing import BinaryIO

from vilbert.pipeline.shards.index.names import ENERGON_FOLDER
from vilbert.pipeline.shards.location.layout import FAILURES_FOLDER, SHARDS_FOLDER

_TEMPORARY_NAME = re.compile(r"\..+\.\d+\.[0-9a-f]{8}\.tmp")


WRITEBACK_BYTES = 8 << 20
"""Bytes after which writeback of a file is started, so that the disk is busy while the rest is hashed."""


class HashingFile:
    """A new file that counts and hashes (SHA-256) what is written to it."""

    def __init__(self, path: Path) -> None:
        """Create the file; FileExistsError if it exists."""
        self.path = path
        self.bytes = 0
        self._hash = hashlib.sha256()
        self._file: BinaryIO = path.open("xb")
        self._flushed = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append `data`."""
        self._file.write(data)
        self._hash.update(data)
        self.bytes += len(data)
        if self.bytes - self._flushed >= WRITEBACK_BYTES:
            start_writeback(self._file.fileno(), self._flushed, self.bytes)
            self._flushed = self.bytes

    def sync(self) -> None:
        """Flush the written data to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def discard(self) -> None:
        """Close the file and delete it, whatever its state."""
        with contextlib.suppress(OSError):  # a full disk refuses the last bytes once more; they are not wanted
            self._file.close()
        self.path.unlink(missing_ok=True)

    @property
    def sha256(self) -> str:
        """Hex digest of the data written so far."""
        return self._hash.hexdigest()


def start_writeback(descriptor: int, start: int, stop: int) -> None:
    """Start writing the bytes [start, stop) of a file to the disk, and return at once.

    On Linux this advice starts the writeback of modified pages, as in PostgreSQL's `pg_flush_data`, so `fsync` waits
    for less. Systems without the call write everything at `fsync`.
    """
    if hasattr(os, "posix_fadvise"):
        with contextlib.suppress(OSError):  # it is a hint: a file system may refuse it
            os.posix_fadvise(descriptor, start, stop - start, os.POSIX_FADV_DONTNEED)


def temporary_path(path: Path) -> Path:
    """Return a name beside `path` that no other writer, thread or host uses."""
    return path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def is_temporary(name: str) -> bool:
    """Return whether a file has a name of `temporary_path`."""
    return _TEMPORARY_NAME.fullmatch(name) is not None


def fsync_dir(directory: Path) -> None:
    """Flush a folder's entries to the disk, so that a rename in it survives a power failure."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes) -> None:
    """Write a file atomically, replacing an existing one; after a kill, either the old or the new file exists."""
    temporary = temporary_path(path)
    try:
        with temporary.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_dir(path.parent)


def give_usual_mode(folder: Path) -> None:
    """Set the modes of a folder and its content to those of new files there, by the umask or the folder's default ACL.

    Some libraries (safetensors, tempfile) write through private temporary files, which only their owner may read.
    """
    probe = temporary_path(folder / "mode")
    probe.touch()
    file_mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    probe.mkdir()
    folder_mode = stat.S_IMODE(probe.stat().st_mode)
    probe.rmdir()
    for directory, _, names in os.walk(folder):
        Path(directory).chmod(folder_mode)
        for name in names:
            (Path(directory) / name).chmod(file_mode)


def sweep_temporary(directory: Path) -> list[Path]:
    """Delete unfinished files of killed runs in a data set, and return their paths.

    Call it only while no other process writes there: the temporary file of a running writer looks the same.
    """
    folders = (directory, *(directory / inner for inner in (SHARDS_FOLDER, FAILURES_FOLDER, ENERGON_FOLDER)))
    stale = sorted(path for folder in folders for path in folder.glob(".*.tmp") if is_temporary(path.name))
    for path in stale:
        path.unlink(missing_ok=True)
    return stale
