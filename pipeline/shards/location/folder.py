"""The folder that a data set is written to and read from: on a disk, or behind a URL.

A writer builds a shard in a local folder and publishes its files in the order in which they must appear. A reader
requests local copies of the files that it needs. On a disk, both local folders are the data set's own folder.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote, urlsplit

from vilbert.pipeline.errors import MissingError, OutputError, RefusedError, ShardError
from vilbert.pipeline.shards.location.layout import DATASET_FILE
from vilbert.pipeline.shards.location.listing import Entry
from vilbert.pipeline.shards.location.lock import exclusive_writer
from vilbert.pipeline.shards.storage.atomic import is_temporary, sweep_temporary, write_atomic
from vilbert.pipeline.urls import is_remote

Place = Path | str
"""Location of a data set: the path of a folder, or its URL as a string."""


class Folder(Protocol):
    """A data set's folder. Names of files are relative to it: `dataset.json`, `shards/000003.tar`."""

    @property
    def name(self) -> str:
        """Name for messages, without credentials."""

    @property
    def remote(self) -> bool:
        """Whether files must be fetched before they can be opened."""

    def make(self) -> None:
        """Create the folder if it does not exist; RefusedError if it cannot be one."""

    def entries(self, under: str) -> Iterator[tuple[str, int | None]]:
        """Yield (name, size) of the entries of a sub-folder; size is None if an entry is not a file."""

    def listing(self, under: str, *, sweep: bool = False) -> Iterator[Entry]:
        """Yield the entries of a sub-folder.

        sweep: delete unfinished files of killed runs there, as `sweep` does everywhere.
        """

    def changed(self, name: str) -> int:
        """Return the time of a file's last change, by the clock of `listing`; 0 if it is missing or unknown."""

    def local(self, names: Sequence[str]) -> AbstractContextManager[Path]:
        """Provide a local folder with those of the named files that exist, under the same names."""

    def building(self) -> AbstractContextManager[Path]:
        """Provide a local folder to build a shard in, with the names that it will have here."""

    def publish(self, built: Path, names: Sequence[str]) -> None:
        """Make built files appear here, each complete, in order. Existing ones are deleted before, in reverse."""

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file; None if it does not exist."""

    def write(self, name: str, data: bytes) -> None:
        """Write a small file atomically, replacing an existing one."""

    def delete(self, name: str) -> None:
        """Delete a file if it exists."""

    def exclusive_writer(self) -> AbstractContextManager[None]:
        """Hold the folder's lock; LockedError, with the holder's name, if another process holds it."""

    def sweep(self) -> None:
        """Delete unfinished files of killed runs; call it only while no other process writes here."""


@dataclass(frozen=True)
class LocalFolder:
    """A folder on a disk of this machine, or of a file server."""

    path: Path
    """Path of the folder."""
    remote = False

    @property
    def name(self) -> str:
        """Name for messages."""
        return str(self.path)

    def make(self) -> None:
        """Create the folder if it does not exist; RefusedError if it is a file."""
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"--output {self.path}: is a file; name a folder")
        self.path.mkdir(parents=True, exist_ok=True)

    def entries(self, under: str) -> Iterator[tuple[str, int | None]]:
        """Yield (name, size) of the entries of a sub-folder; size is None if an entry is not a file."""
        return ((entry.name, entry.size) for entry in self.listing(under))

    def changed(self, name: str) -> int:
        """Return when a file last changed; 0 if it does not exist."""
        with contextlib.suppress(FileNotFoundError):
            return _changed(os.stat(self.path / name))
        return 0

    def listing(self, under: str, *, sweep: bool = False) -> Iterator[Entry]:
        """Yield the entries of a sub-folder."""
        try:
            found = os.scandir(self.path / under)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            raise RefusedError(f"{self.name}: {what_is_there(self)}") from None
        with found:
            left = []  # deleted afterwards: a file server may pass over entries of a folder that changes meanwhile
            for entry in found:
                if sweep and is_temporary(entry.name):
                    left.append(Path(entry.path))
                    continue
                size, changed = None, 0
                with contextlib.suppress(FileNotFoundError):  # deleted meanwhile, or a link to nowhere
                    status = entry.stat()
                    size = status.st_size if stat.S_ISREG(status.st_mode) else None
                    changed = _changed(status)
                yield Entry(entry.name, size, changed)
        for path in left:
            path.unlink(missing_ok=True)

    @contextmanager
    def local(self, names: Sequence[str]) -> Iterator[Path]:
        """Provide the folder itself."""
        yield self.path

    @contextmanager
    def building(self) -> Iterator[Path]:
        """Provide the folder itself: `ShardWriter` publishes by renaming, the record last."""
        yield self.path

    def publish(self, built: Path, names: Sequence[str]) -> None:
        """Do nothing, because files are built in the folder itself."""

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file; None if it does not exist."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            return (self.path / name).read_bytes()
        return None

    def write(self, name: str, data: bytes) -> None:
        """Write a small file atomically."""
        write_atomic(self.path / name, data)

    def delete(self, name: str) -> None:
        """Delete a file if it exists."""
        (self.path / name).unlink(missing_ok=True)

    def exclusive_writer(self) -> AbstractContextManager[None]:
        """Hold the folder's lock."""
        return exclusive_writer(self.path)

    def sweep(self) -> None:
        """Delete the temporary files of killed runs."""
        sweep_temporary(self.path)


def _changed(status: os.stat_result) -> int:
    # The inode's time too: a copy that keeps the time of its content, and `touch`, set that one alone.
    return max(status.st_mtime_ns, status.st_ctime_ns)


def parse_place(text: str) -> Place:
    """Return the location in an option: a path, or an unchanged URL."""
    if is_remote(text):
        return text
    return Path(unquote(urlsplit(text).path)) if text.startswith("file://") else Path(text)


def what_is_there(folder: Folder) -> str:
    """Return a description of a folder without dataset.json, and what a command on data sets expects instead."""
    expected = f"expected a data set, the --output of `vilbert extract` or `convert`, with {DATASET_FILE} in it"
    path = folder.path if isinstance(folder, LocalFolder) else None
    if path is None or path.is_dir():
        return f"has no {DATASET_FILE}; {expected}"
    if not path.exists():
        return f"no such folder; {expected}"
    around = next((parent for parent in path.parents if (parent / DATASET_FILE).is_file()), None)
    return f"is a file; {expected}{f': {around} is one' if around is not None else ''}"


def not_a_dataset(folder: Folder) -> ShardError:
    """Return the error for a folder without dataset.json: a `MissingError` if the folder does not exist."""
    if isinstance(folder, LocalFolder):
        there = folder.path.exists()
    else:
        there = next(iter(folder.entries("")), None) is not None
    return (ShardError if there else MissingError)(f"{folder.name}: {what_is_there(folder)}")


def open_folder(place: Place) -> Folder:
    """Return the folder at a location, which does not have to exist."""
    if isinstance(place, Path):
        return LocalFolder(place)
    from vilbert.pipeline.shards.location.remote_folder import RemoteFolder  # fsspec's own import takes a while

    return RemoteFolder(place)
