"""The folder where shards of remote data sets are kept: whole files only, bounded in bytes, shared by processes.

    FOLDER/<hash of dataset.json>/dataset.json, shards/000000.json, shards/000000.tar …     as in any data set
    FOLDER/<hash of column.json>/column.json, shards/…                                      a column, likewise
    FOLDER/.fetch-BYTES-UNIQUE/                                                             a download at work

A shard appears in its place by a rename after its size and hash are checked. When room is needed, the shards that were
opened longest ago go first, but none that this process has open. Another process may lose a file that it has open: on
Linux it keeps reading, and downloads the shard again when it opens it again.

webdataset's own LRUCleanup deletes whatever is oldest, open or not, and only looks every 30 seconds.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import secrets
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from vilbert.pipeline.errors import RefusedError, ShardError
from vilbert.pipeline.shards.dataset import read_dataset
from vilbert.pipeline.shards.location.layout import DATASET_FILE, SHARDS_FOLDER, record_path
from vilbert.pipeline.shards.storage.atomic import write_atomic
from vilbert.pipeline.train.data.remote import download, join, public_url, read_files

_FETCH = re.compile(r"\.fetch-(\d+)-[0-9a-f]{16}")
_WAIT_SECONDS = 0.05  # between looks whether downloads of other processes are done
_RECORDS_AT_ONCE = 500

_in_use: Counter[Path] = Counter()  # of this process, whichever cache object opened it


class OpenedShard(Protocol):
    """A shard of a data set or of a column that is open."""

    path: Path
    """Of its file."""

    def close(self) -> None:
        """Close the file."""


_Opened = TypeVar("_Opened", bound=OpenedShard)


class CacheFullError(RefusedError):
    """A cache whose bytes do not suffice for the shards that this process has open."""


@dataclass(frozen=True, kw_only=True)
class ShardCache:
    """Remote shards on this machine's disk."""

    folder: Path
    """Folder of the files; created if it does not exist."""
    limit: int
    """Bytes of shards kept, those being fetched included."""

    def fetch_dataset(self, url: str) -> Path:
        """Return the cache's folder of a remote data set, with its dataset.json and its records.

        The folder is named by the content of dataset.json, which is fetched every time, so shards of an older version
        of the data set are never used. Records are fetched once.

        Raises RemoteError where a file cannot be fetched, RefusedError for a data set that is not complete.
        """
        (content,) = read_files([join(url, DATASET_FILE)])
        target = self._named_by(content)
        if (target / DATASET_FILE).is_file():
            return target
        with self._disk_errors(), self._workplace(0) as workplace:
            write_atomic(workplace / DATASET_FILE, content)
            info = read_dataset(workplace)
        if not info.complete:
            raise RefusedError(
                f"{public_url(url)}: not complete: run the same `vilbert extract` or `vilbert convert` again until "
                "it says that all shards are done, then copy the data set to its place"
            )
        return self.fetch_folder(url, DATASET_FILE, content, shards=info.shards)

    def fetch_folder(self, url: str, name: str, content: bytes, *, shards: int) -> Path:
        """Return the cache's folder of a remote data set or column, with its description and its records.

        The folder is named by the content of the description. Records are fetched once.

        Args:
            url: Of the data set's or the column's folder.
            name: Of the description's file, dataset.json or column.json.
            content: Of that file.
            shards: How many records there are.

        Raises:
            RemoteError: A record cannot be fetched.
        """
        target = self._named_by(content)
        if (target / name).is_file():
            return target
        with self._disk_errors(), self._workplace(0) as workplace:
            write_atomic(workplace / name, content)
            (workplace / SHARDS_FOLDER).mkdir()
            for first in range(0, shards, _RECORDS_AT_ONCE):
                some = range(first, min(first + _RECORDS_AT_ONCE, shards))
                paths = [record_path(workplace, shard) for shard in some]
                for path, record in zip(
                    paths, read_files([join(url, SHARDS_FOLDER, path.name) for path in paths]), strict=True
                ):
                    path.write_bytes(record)
            # Where another process was faster the folder is there, with the same content.
            with contextlib.suppress(OSError):
                workplace.rename(target)
        if not (target / name).is_file():
            raise ShardError(f"{target}: cannot be written; check the permissions of the cache's folder")
        return target

    def _named_by(self, content: bytes) -> Path:
        return self.folder / hashlib.sha256(content).hexdigest()[:32]

    def open(self, url: str, path: Path, *, size: int, sha256: str, opener: Callable[[Path], _Opened]) -> _Opened:
        """Open a shard, fetched first where it is not there; hand what `opener` returns to `close` when done.

        url: of the data set or column. path: of the shard under the cache's folder of it. size, sha256: of its record.
        opener: opens the file, which was compared with its record as it was fetched.

        Raises RemoteError where it cannot be fetched, CorruptShardError where it is damaged, CacheFullError where only
        closing readers of this process would make room.
        """
        _in_use[path] += 1
        try:
            while True:
                self._fetch(join(url, SHARDS_FOLDER, path.name), path, size=size, sha256=sha256)
                # Opening reads the file by its name, several times for LMDB: it must not be deleted meanwhile.
                with self._locked(fcntl.LOCK_SH):
                    if path.exists():  # else another process deleted it just now
                        os.utime(path)  # newest: other processes see that it is wanted
                        return opener(path)
        except BaseException:
            _forget(path)
            raise

    def close(self, reader: OpenedShard) -> None:
        """Close what `open` returned; its file may be deleted from now on."""
        reader.close()
        _forget(reader.path)

    def _fetch(self, url: str, path: Path, *, size: int, sha256: str) -> None:
        """Make sure that the shard is there, whole."""
        with contextlib.suppress(FileNotFoundError):
            if path.stat().st_size == size:
                return
        with self._disk_errors(), self._workplace(size) as workplace:
            os.replace(download(url, workplace, name=path.name, size=size, sha256=sha256), path)

    @contextlib.contextmanager
    def _workplace(self, size: int) -> Iterator[Path]:
        """Give a new folder for a download of `size` bytes, for which room is made; delete it in the end."""
        self.folder.mkdir(parents=True, exist_ok=True)
        workplace = self.folder / f".fetch-{size}-{secrets.token_hex(8)}"
        while (claim := self._claim(workplace, size)) is None:
            time.sleep(_WAIT_SECONDS)
        try:
            yield workplace
        finally:
            shutil.rmtree(workplace, ignore_errors=True)
            os.close(claim)

    def _claim(self, workplace: Path, size: int) -> int | None:
        """Make the folder and lock it, once there is room; None where downloads of other processes take it now.

        Room is made and claimed under a lock, or two processes would take the same room. The lock on the folder, whose
        descriptor is returned, ends with its process: so a killed one claims nothing.
        """
        with self._locked(fcntl.LOCK_EX):
            if size and not self._make_room(size):
                return None
            workplace.mkdir()
            claim = os.open(workplace, os.O_RDONLY | os.O_DIRECTORY)
            fcntl.flock(claim, fcntl.LOCK_EX)
            return claim

    def _make_room(self, size: int) -> bool:
        """Delete shards, those opened longest ago first, until `size` more bytes are within the limit.

        False where that waits for downloads of other processes; CacheFullError where they would not suffice.
        """
        claimed = sum(_claimed_bytes(folder) for folder in self.folder.glob(".fetch-*"))
        kept: list[tuple[float, int, Path]] = []
        for path in (*self.folder.glob(f"*/{SHARDS_FOLDER}/*.tar"), *self.folder.glob(f"*/{SHARDS_FOLDER}/*.lmdb")):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                kept.append((status.st_mtime, status.st_size, path))
        total = size + claimed + sum(taken for _, taken, _ in kept)
        for _, freed, path in sorted(kept):
            if total <= self.limit:
                break
            if path not in _in_use:
                path.unlink(missing_ok=True)
                total -= freed
        if total - claimed > self.limit:
            raise CacheFullError(
                f"{self.folder}: a shard of {size} bytes does not fit into {self.limit} bytes besides the shards in "
                "use: raise --cache-bytes"
            )
        return total <= self.limit

    @contextlib.contextmanager
    def _locked(self, how: int) -> Iterator[None]:
        """Keep other processes from deleting shards; LOCK_SH to open one, LOCK_EX to delete and to claim room."""
        with (self.folder / ".lock").open("ab") as lock:
            fcntl.flock(lock, how)
            yield

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ShardError(
                f"{self.folder}: cannot be written ({error.strerror or error}); free space or check its permissions, "
                "or choose another folder with --cache"
            ) from error


def _claimed_bytes(folder: Path) -> int:
    """Return the bytes that a running download will take; 0 for one whose process has ended, which is deleted."""
    match = _FETCH.fullmatch(folder.name)
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return 0  # done just now
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return int(match[1]) if match else 0
    else:
        shutil.rmtree(folder, ignore_errors=True)
        return 0
    finally:
        os.close(descriptor)


def _forget(path: Path) -> None:
    _in_use[path] -= 1
    if not _in_use[path]:
        del _in_use[path]
