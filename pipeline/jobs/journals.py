"""Store journals in `.journals/` of the data set's folder, where the next worker of a shard reads them.

On a disk, a shard has one journal, `000003.journal`, to which lines are appended; the kernel keeps what a killed
process wrote. Objects behind a URL cannot be appended to, so each attempt has its own file,
`000003.0002.7f3a90c1.journal`.

To store a line so that it survives a crash of the machine takes time: an fsync on a disk, an upload behind a URL. So
the first attempt at a shard only stores its start safely. After an attempt has died, each line that starts work on rows
is stored safely before the work starts. An image that crashes its whole node is thus found with one additional attempt.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from pathlib import Path

from vilbert.pipeline.jobs.journal import JournalFile, costing_nothing
from vilbert.pipeline.shards.location.folder import Folder, LocalFolder
from vilbert.pipeline.shards.location.layout import JOURNALS_FOLDER, shard_name

_NAME = re.compile(r"(\d{6,})(?:\.\d{4,}\.[0-9a-f]{8})?\.journal")


class Journals:
    """The journals of a data set. Errors of journals are ignored, because shards do not depend on them."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def shards(self) -> set[int]:
        """Return the shards that have a journal."""
        with costing_nothing():
            return {shard for shard, _ in self._listed()}
        return set()

    def read(self, shard: int) -> bytes | None:
        """Return a shard's journal with all attempts in order; b"" if it does not exist, None if it cannot be read."""
        with costing_nothing():
            return b"".join(self._folder.read(name) or b"" for name in self._files(shard))
        return None

    def open(self, shard: int, *, careful: bool) -> JournalFile | None:
        """Return the file of the shard's next attempt, None if earlier attempts cannot be read.

        Args:
            shard: The shard.
            careful: Whether an earlier attempt died.
        """
        if isinstance(self._folder, LocalFolder):
            return AppendedFile(self._folder.path / self._files(shard)[0], careful=careful)
        with costing_nothing():
            name = f"{shard_name(shard)}.{len(self._files(shard)) + 1:04d}.{secrets.token_hex(4)}.journal"
            return UploadedFile(self._folder, f"{JOURNALS_FOLDER}/{name}", careful=careful)
        return None

    def mark_stalled(self, shard: int) -> None:
        """Record that the last attempt was ended because it made no progress."""
        if self.read(shard) and (file := self.open(shard, careful=True)):
            with costing_nothing():
                file.append(b"\n-------- stalled\n", wait=True)
                file.close()

    def remove(self, shard: int) -> None:
        """Delete a shard's journal."""
        with costing_nothing():
            for name in self._files(shard):
                self._folder.delete(name)

    def remove_all(self) -> None:
        """Delete all journals, and on a disk their folder, because the data set is complete or starts again."""
        with costing_nothing():
            for _, name in self._listed():
                self._folder.delete(name)
        if isinstance(self._folder, LocalFolder):
            with costing_nothing():  # it may not exist; `verify` reports a folder that remains
                (self._folder.path / JOURNALS_FOLDER).rmdir()

    def _files(self, shard: int) -> list[str]:
        """Return the names of a shard's files, in the order of its attempts."""
        if isinstance(self._folder, LocalFolder):  # listings of a file server may be a minute old
            return [f"{JOURNALS_FOLDER}/{shard_name(shard)}.journal"]
        return [name for number, name in self._listed() if number == shard]

    def _listed(self) -> list[tuple[int, str]]:
        """Return (shard, name) of all existing files, in order."""
        names = sorted(name for name, _ in self._folder.entries(JOURNALS_FOLDER))
        return [(int(match[1]), f"{JOURNALS_FOLDER}/{name}") for name in names if (match := _NAME.fullmatch(name))]


class AppendedFile:
    """A journal file on a disk."""

    def __init__(self, path: Path, *, careful: bool) -> None:
        """careful: fsync after all lines with `wait`, not only after the first ones."""
        self._path = path
        self._careful = careful
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._closed = False

    def append(self, lines: bytes, *, wait: bool) -> None:
        """Append lines with one write."""
        with self._lock:
            if self._closed:
                return
            first = self._descriptor is None
            if self._descriptor is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.write(self._descriptor, lines)
            if wait and (first or self._careful):
                os.fsync(self._descriptor)

    def close(self) -> None:
        """Append nothing from now on."""
        with self._lock:
            self._closed = True
            descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def remove(self) -> None:
        """Delete the file."""
        self.close()
        self._path.unlink(missing_ok=True)


class UploadedFile:
    """An attempt's journal behind a URL: rewritten with the lines that all waiting threads have appended meanwhile."""

    def __init__(self, folder: Folder, name: str, *, careful: bool) -> None:
        """careful: upload after all lines with `wait`, not only after the first ones."""
        self._folder = folder
        self._name = name
        self._careful = careful
        self._lines = bytearray()
        self._uploaded = 0
        """Number of bytes that are uploaded."""
        self._lock = threading.Lock()
        self._uploading = threading.Lock()
        self._away = False
        self._closed = False

    def append(self, lines: bytes, *, wait: bool) -> None:
        """Append lines."""
        with self._lock:
            if self._closed:
                return
            first = not self._lines
            self._lines += lines
            length = len(self._lines)
        if wait and (first or self._careful):
            with self._uploading:
                if not self._away:  # after one failed upload, which takes half a minute, later lines do not wait
                    self._upload(length)

    def close(self) -> None:
        """Accept no further lines, and upload the remaining ones."""
        with self._lock:
            self._closed = True
            length = len(self._lines)
        with self._uploading:
            self._upload(length)

    def remove(self) -> None:
        """Delete the file."""
        with self._lock:
            self._closed = True
        with self._uploading:
            self._uploaded = len(self._lines)  # waiting threads need not upload it again
            self._folder.delete(self._name)

    def _upload(self, length: int) -> None:
        if self._uploaded >= length:  # another waiting thread uploaded it
            return
        with self._lock:
            lines = bytes(self._lines)
        try:
            self._folder.write(self._name, lines)
        except Exception:
            self._away = True
            raise
        self._uploaded = len(lines)
