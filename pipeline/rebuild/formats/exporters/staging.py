"""Outputs that appear complete or not at all.

An export is written in a folder `.NAME.export` beside its final path, fsynced and renamed. The folder is locked while
its process runs, so a second export to the same path is refused, and leftovers of a killed export are deleted by the
next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path
from types import TracebackType
from typing import Self

from vilbert.pipeline.errors import LockedError, OutputError, ShardError
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.storage.atomic import fsync_dir

Rows = Generator[None, Sample | None, None]
"""Writes a file or folder from the samples that are sent to it; None, sent last, completes it."""


class StagedWriter:
    """An `ExportWriter` around a generator that writes one file or folder."""

    def __init__(self, path: Path, write: Callable[[Path], Rows]) -> None:
        self._path = path
        self._write = write
        self._work = path.with_name(f".{path.name}.export")
        self._failed = False

    def __enter__(self) -> Self:
        require_free(self._path)
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _lock_folder(self._work, self._path)
        try:
            _empty(self._work)
            self._rows = self._write(self._work / self._path.name)
            next(self._rows)
        except BaseException:
            self._leave()
            raise
        return self

    def add(self, sample: Sample) -> None:
        """Append a sample; ShardError if the format cannot store it."""
        self._failed = True  # until it is written
        self._rows.send(sample)
        self._failed = False

    def finish(self) -> None:
        """Fsync the output and rename it to its final name."""
        if self._failed:
            raise ShardError(f"{self._path}: the export failed earlier; run it again")
        with contextlib.suppress(StopIteration):
            self._rows.send(None)
        written = self._work / self._path.name
        _sync(written)
        require_free(self._path)
        written.rename(self._path)
        fsync_dir(self._path.parent)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._rows.close()
        finally:
            self._leave()

    def _leave(self) -> None:
        shutil.rmtree(self._work, ignore_errors=True)
        os.close(self._lock)


def require_free(path: Path) -> None:
    """Raise RefusedError if a file, folder or link exists at `path`."""
    if os.path.lexists(path):
        raise OutputError(f"--output {path}: exists; delete it or choose another name")


def _lock_folder(folder: Path, output: Path) -> int:
    """Create and lock a folder and return the descriptor of the lock; LockedError if another process holds it."""
    while True:
        folder.mkdir(exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.lstat(folder)):
                    return descriptor
            os.close(descriptor)  # its owner deleted it between the two calls
        except BlockingIOError:
            os.close(descriptor)
            raise LockedError(
                f"--output {output}: another process is exporting to it; wait for it or choose another name"
            ) from None


def _empty(folder: Path) -> None:
    for entry in os.scandir(folder):
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)


def _sync(path: Path) -> None:
    """Fsync a file, or a folder with all its files."""
    if not path.is_dir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
        return
    for entry in path.iterdir():
        _sync(entry)
    fsync_dir(path)
