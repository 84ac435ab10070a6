"""Where journals lie: in `.journals/` of the data set's folder, where whoever makes a shard next can read them.

On a disk a shard has one, `000003.journal`, to which lines are appended. What a killed process wrote is with the kernel
already, so nothing is fsynced: a machine that loses its power is no image's fault.

Behind a URL nothing can be appended to, and a file that is written anew for every line takes its time. There each
attempt has a file of its own, `000003.0002.7f3a90c1.journal`. The first attempt at a shard only says that it begins;
only after one died, each line that puts rows in hand is uploaded before the rows are touched. So an image is found
whatever it takes down, its node included, for one attempt more.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from pathlib import Path

from pipeline.extract.journal import JournalFile, costing_nothing
from pipeline.shards.folder import Folder, LocalFolder
from pipeline.shards.layout import JOURNALS_FOLDER, shard_name

_NAME = re.compile(r"(\d{6,})(?:\.\d{4,}\.[0-9a-f]{8})?\.journal")


class Journals:
    """The journals of a data set. What cannot be read is not there, and what cannot be deleted stays."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def shards(self) -> set[int]:
        """Return the shards that have a journal."""
        return set(self._names())

    def read(self, shard: int) -> bytes:
        """Return a shard's journal, all attempts in their order; nothing where there is none."""
        with costing_nothing():
            return b"".join(self._folder.read(name) or b"" for name in self._names().get(shard, ()))
        return b""

    def open(self, shard: int, *, careful: bool) -> JournalFile:
        """Return the file of the shard's next attempt. careful: whether an attempt died."""
        if isinstance(self._folder, LocalFolder):
            return AppendedFile(self._folder.path / JOURNALS_FOLDER / f"{shard_name(shard)}.journal")
        attempt = len(self._names().get(shard, ())) + 1
        name = f"{shard_name(shard)}.{attempt:04d}.{secrets.token_hex(4)}.journal"
        return UploadedFile(self._folder, f"{JOURNALS_FOLDER}/{name}", careful=careful)

    def mark_stalled(self, shard: int) -> None:
        """Write down that the last attempt was ended because it stood still."""
        if self.read(shard):
            with costing_nothing():
                file = self.open(shard, careful=True)
                file.append(b"\n-------- stalled\n", wait=True)
                file.close()

    def remove(self, shard: int) -> None:
        """Delete a shard's journal."""
        for name in self._names().get(shard, ()):
            with costing_nothing():
                self._folder.delete(name)

    def remove_all(self) -> None:
        """Delete all journals, on a disk their folder too: the data set is complete, or begins anew."""
        for shard in self.shards():
            self.remove(shard)
        if isinstance(self._folder, LocalFolder):
            with costing_nothing():  # it is not there; one that stays is `verify`'s to name
                (self._folder.path / JOURNALS_FOLDER).rmdir()

    def _names(self) -> dict[int, list[str]]:
        """Return the files there are, by shard, in their order."""
        found: dict[int, list[str]] = {}
        with costing_nothing():
            for name in sorted(name for name, _ in self._folder.entries(JOURNALS_FOLDER)):
                if match := _NAME.fullmatch(name):
                    found.setdefault(int(match[1]), []).append(f"{JOURNALS_FOLDER}/{name}")
        return found


class AppendedFile:
    """A journal on a disk."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._descriptor: int | None = None
        self._closed = False

    def append(self, lines: bytes, *, wait: bool) -> None:
        """Append lines, in one piece."""
        with self._lock:
            if self._closed:
                return
            if self._descriptor is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
            os.write(self._descriptor, lines)

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
    """An attempt's journal behind a URL: written anew, with what was appended meanwhile by all threads that wait."""

    def __init__(self, folder: Folder, name: str, *, careful: bool) -> None:
        """careful: upload all lines that are waited for, and not the first ones alone."""
        self._folder = folder
        self._name = name
        self._careful = careful
        self._lines = bytearray()
        self._uploaded = 0
        """Bytes of them that are there."""
        self._lock = threading.Lock()
        self._uploading = threading.Lock()
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
            self._upload(length)

    def close(self) -> None:
        """Append nothing from now on, and upload what is not there yet."""
        with self._lock:
            self._closed = True
            length = len(self._lines)
        self._upload(length)

    def remove(self) -> None:
        """Delete the file."""
        with self._lock:
            self._closed = True
        with self._uploading:
            self._uploaded = len(self._lines)  # nobody who waits for its turn writes it once more
            self._folder.delete(self._name)

    def _upload(self, length: int) -> None:
        with self._uploading:
            if self._uploaded >= length:
                return
            with self._lock:
                lines = bytes(self._lines)
            try:
                self._folder.write(self._name, lines)
            except Exception:
                self._careful = False  # it was asked for half a minute; no other line shall wait as long
                raise
            self._uploaded = len(lines)
