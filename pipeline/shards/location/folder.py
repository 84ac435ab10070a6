"""The folder that a data set is written to and read from: on a disk, or behind a URL.

Writers build a shard in a local folder and publish its files in a defined order. Readers request local copies of the
files that they need. For a data set on a disk, both use its own folder.
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
        """Create the folder if it does not exist. Raise RefusedError if it cannot be created."""

    def entries(self, under: str) -> Iterator[tuple[str, int | None]]:
        """Yield (name, size) of the entries of a sub-folder; size is None if an entry is not a file."""

    def listing(self, under: str, *, sweep: bool = False) -> Iterator[Entry]:
        """Yield the entries of a subfolder. With `sweep`, also delete unfinished files of killed runs in it."""

    def changed(self, name: str) -> int:
        """Return the modification time of a file, by the clock of `listing`; 0 if it is missing or unknown."""

    def local(self, names: Sequence[str]) -> AbstractContextManager[Path]:
        """Provide a local folder that contains the named files that exist, with the same names."""

    def building(self) -> AbstractContextManager[Path]:
        """Provide a local folder to build a shard in, with its final file names."""

    def publish(self, built: Path, names: Sequence[str]) -> None:
        """Publish built files atomically, one after the other. Old files are deleted first, the last name first."""

    def read(self, name: str) -> bytes | None:
        """Return the content of a small file; None if it does not exist."""

    def write(self, name: str, data: bytes) -> None:
        """Write or replace a small file atomically."""

    def delete(self, name: str) -> None:
        """Delete a file if it exists."""

    def exclusive_writer(self) -> AbstractContextManager[None]:
        """Lock the folder against other writers. Raise LockedError, naming the holder, if it is already locked."""

    def sweep(self) -> None:
        """Delete unfinished files of killed runs. Call it only while no other process writes here."""


@dataclass(frozen=True)
class LocalFolder:
    """A folder on a local disk or a file server."""

    path: Path
    """Path of the folder."""
    remote = False

    @property
    def name(self) -> str:
        """Name for messages."""
        return str(self.path)

    def make(self) -> None:
        """Create the folder if it does not exist. Raise RefusedError if it is a file."""
        if self.path.exists() and not self.path.is_dir():
            raise OutputError(f"--output {self.path}: is a file; name a folder")
        self.path.mkdir(parents=True, exist_ok=True)

    def entries(self, under: str) -> Iterator[tuple[str, int | None]]:
        """Yield (name, size) of the entries of a sub-folder; size is None if an entry is not a file."""
        return ((entry.name, entry.size) for entry in self.listing(under))

    def changed(self, name: str) -> int:
        """Return the modification time of a file, or 0 if it does not exist."""
        with contextlib.suppress(FileNotFoundError):
            return _changed(os.stat(self.path / name))
        return 0

    def listing(self, under: str, *, sweep: bool = False) -> Iterator[Entry]:
        """Yield the entries of a subfolder."""
        try:
            found = os.scandir(self.path / under)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            raise RefusedError(f"{self.name}: {what_is_there(self)}") from None
        with found:
            left = []  # deleted afterwards: a file server may skip entries of a folder that changes during listing
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
        """Provide the folder itself: `ShardWriter` publishes by renaming, record last."""
        yield self.path

    def publish(self, built: Path, names: Sequence[str]) -> None:
        """Do nothing: the files were built in the folder itself."""

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
    # Also the inode's change time, because a copy that preserves mtime updates only ctime.
    return max(status.st_mtime_ns, status.st_ctime_ns)


def parse_place(text: str) -> Place:
    """Parse the value of an option: a path, or a URL, which is unchanged."""
    if is_remote(text):
        return text
    return Path(unquote(urlsplit(text).path)) if text.startswith("file://") else Path(text)


def what_is_there(folder: Folder) -> str:
    """Describe a folder without dataset.json, and what the command expects instead."""
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
    """Return the folder at a location, which need not exist."""
    if isinstance(place, Path):
        return LocalFolder(place)
    from vilbert.pipeline.shards.location.remote_folder import RemoteFolder  # importing fsspec is slow

    return RemoteFolder(place)
