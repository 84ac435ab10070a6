"""Compare files of samples with the SHA-256 in their record, each file once.

A file is identified by its path, size, times and inode and the digest that it was compared with. If it changes, it is
compared again. The list of compared files may be a file that several processes, runs and machines share. They append to
it and never rewrite it; if an entry is damaged or lost, its file is compared again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
import threading
import time
import weakref
from collections import defaultdict
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from vilbert.pipeline.errors import CorruptShardError
from vilbert.pipeline.shards.record import read_record

_READ_BYTES = 1 << 20
_WAIT_SECONDS = 0.02  # between looks whether another process is done with a file
_LONGEST_WAIT_SECONDS = 600.0
_ENTRY_BYTES = 16


class VerifiedFiles:
    """Compares files with their SHA-256, each once. Threads and forked or spawned processes may share it."""

    def __init__(self, log: Path | None = None) -> None:
        """Start with the entries of the file `log` and append to it; by default, start empty with an unnamed file."""
        self._log = log
        self._descriptor = _open_log(log)
        # At the process's end the system closes it: a thread may still read ahead.
        weakref.finalize(self, os.close, self._descriptor).atexit = False
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._guard = threading.Lock()
        self._at_work: dict[str, threading.Lock] = {}
        self._known: set[str] = set()
        self._rest = b""
        self._offset = 0

    def require(
        self, path: Path, sha256: str, *, cached: bool = False, wait: bool = True, stop: threading.Event | None = None
    ) -> None:
        """Return if the file at `path` has the SHA-256 of its record; raise CorruptShardError otherwise.

        cached: the file is in a cache, whose times record its last use; it is identified without them.
        wait: wait while another thread or process compares the file; False returns at once in this case.
        stop: an event that ends the comparison without a result.
        """
        if self._process != os.getpid():
            self._begin()  # a lock that was held at the fork would never be free
        entry = _entry(path, sha256, cached=cached)
        if self._knows(entry):
            return
        with self._claim(entry, wait=wait) as claimed:
            if not claimed or self._knows(entry):
                return
            if compare_sha256(path, sha256, stop=stop):
                self._note(entry)

    def note(self, path: Path, sha256: str, *, cached: bool = False) -> None:
        """Add a file that was hashed while it was written."""
        self._note(_entry(path, sha256, cached=cached))

    def _knows(self, entry: str) -> bool:
        if entry in self._known:
            return True
        with self._guard:
            # One reader at a time: the file only grows, and what is behind `_offset` is new.
            while data := os.pread(self._descriptor, _READ_BYTES, self._offset):
                self._offset += len(data)
                *lines, self._rest = (self._rest + data).split(b"\n")
                self._known.update(line.decode("ascii", "replace") for line in lines)
        return entry in self._known

    def _note(self, entry: str) -> None:
        self._known.add(entry)
        with contextlib.suppress(OSError):  # a full disk: it is compared once more by the next
            os.write(self._descriptor, f"{entry}\n".encode("ascii"))

    @contextlib.contextmanager
    def _claim(self, entry: str, *, wait: bool) -> Iterator[bool]:
        """Lock a file among threads, and processes with the same log; yields False if it is locked."""
        with self._guard:
            lock = self._at_work.setdefault(entry, threading.Lock())
        if not lock.acquire(blocking=wait):
            yield False
            return
        place = int(entry[:12], 16)  # of the byte that stands for the file; it need not exist to be locked
        locked = False
        try:
            deadline = time.monotonic() + (_LONGEST_WAIT_SECONDS if wait else 0)
            while True:
                try:
                    fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
                    locked = True
                    break
                except (BlockingIOError, PermissionError):
                    if not wait:
                        break
                    if time.monotonic() >= deadline:  # its holder is stopped: two may compare the same file
                        break
                    time.sleep(_WAIT_SECONDS)
                except OSError:  # a file system without locks
                    break
            yield locked or wait
        finally:
            if locked:
                fcntl.lockf(self._descriptor, fcntl.LOCK_UN, 1, place)
            lock.release()

    def __getstate__(self) -> dict[str, Any]:
        return {"log": self._log}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["log"])  # type: ignore[misc]  # a spawned process opens the log for itself


def _open_log(log: Path | None) -> int:
    """Open the list for reading and appending; use an unnamed file if it cannot be created."""
    flags = os.O_RDWR | os.O_APPEND | os.O_CLOEXEC
    if log is not None:
        with contextlib.suppress(OSError):
            return os.open(log, flags | os.O_CREAT, 0o666)
    descriptor, name = tempfile.mkstemp(prefix="vilbert-verified-")
    os.close(descriptor)
    try:
        return os.open(name, flags)
    finally:
        os.unlink(name)


def _entry(path: Path, sha256: str, *, cached: bool) -> str:
    """Return the list entry of a file in its present state; raise CorruptShardError if the file is missing."""
    try:
        status = path.stat()
    except OSError as error:
        raise CorruptShardError(f"cannot be read ({error.strerror})", path=path) from error
    times = () if cached else (status.st_mtime_ns, status.st_ctime_ns)
    state = "\0".join(map(str, (path.absolute(), status.st_size, status.st_ino, *times, sha256)))
    return hashlib.blake2b(os.fsencode(state), digest_size=_ENTRY_BYTES).hexdigest()


def file_sha256(path: Path, *, stop: threading.Event | None = None) -> str | None:
    """Return the hex SHA-256 of a file, None if `stop` ended the reading; CorruptShardError if it cannot be read.

    Other threads run meanwhile, because reading and hashing release the interpreter lock.
    """
    digest = hashlib.sha256()
    for _, piece in _pieces(path, 0, None):
        if stop is not None and stop.is_set():
            return None
        digest.update(piece)
    return digest.hexdigest()


def hash_part(path: Path, most: int) -> int:
    """Hash at most `most` bytes at the beginning of a file, to measure the time; return the number of bytes."""
    digest, size = hashlib.sha256(), 0
    for _, piece in _pieces(path, 0, None):
        digest.update(piece)
        size += len(piece)
        if size >= most:
            break
    return size


def compare_sha256(path: Path, sha256: str, *, stop: threading.Event | None = None) -> bool:
    """Hash a file; return False if `stop` ended it, raise CorruptShardError if its SHA-256 differs."""
    found = file_sha256(path, stop=stop)
    if found is not None:
        _require_equal(path, found, sha256)
    return found is not None


def _require_equal(path: Path, found: str, sha256: str) -> None:
    if found != sha256:
        problem = (
            f"its SHA-256 is {found[:16]}…, its record has {sha256[:16]}…: bytes were changed since it was written"
        )
        raise CorruptShardError(problem, path=path)


_compared: set[str] = set()  # of this process: files in the states in which they were compared with their records


_at_work: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
"""Held while a thread compares a file, so that other threads wait and do not read the file as well."""
os.register_at_fork(after_in_child=_at_work.clear)  # a lock that was held at the fork would never be free


def compare_with_record(path: Path) -> None:
    """Compare a file of samples with the record beside it, if there is one; once for each state of the file.

    Raises CorruptShardError if its SHA-256 differs, or the record is damaged or names another file.
    """
    record_path = path.with_suffix(".json")
    if not record_path.is_file():
        return
    record = read_record(record_path)
    if record.file != path.name:
        raise CorruptShardError(f"is the record of {record.file}, not of {path.name}", path=record_path)
    compare_once(path, record.sha256)


def compare_once(path: Path, sha256: str) -> None:
    """Compare a file with a SHA-256, once for each state of the file; CorruptShardError if it differs."""
    entry = _entry(path, sha256, cached=False)
    with _at_work[entry]:
        if entry not in _compared:
            compare_sha256(path, sha256)
            _compared.add(entry)


def read_compared(path: Path, start: int, stop: int, sha256: str) -> Generator[memoryview]:
    """Yield the bytes [start, stop) of a file in pieces, and compare the file with its SHA-256.

    The file is read once for both. The bytes are verified only when the iterator has ended; until then, the caller must
    not make them part of a data set. Threads that need the same file wait meanwhile, so close the iterator if it is not
    read to the end.

    Yields:
        Pieces, each valid until the next one is read.

    Raises:
        CorruptShardError: Its SHA-256 differs, or the file is shorter than `stop`.
    """
    entry = _entry(path, sha256, cached=False)
    with _at_work[entry]:
        unknown = entry not in _compared
        if unknown:
            digest = hashlib.sha256()
            for offset, piece in _pieces(path, 0, None):
                digest.update(piece)
                if inside := piece[max(0, start - offset) : max(0, stop - offset)]:
                    yield inside
            _require_equal(path, digest.hexdigest(), sha256)
            _compared.add(entry)
    if not unknown:
        yield from (piece for _, piece in _pieces(path, start, stop))


def _pieces(path: Path, start: int, stop: int | None) -> Iterator[tuple[int, memoryview]]:
    """Yield (offset, bytes) of a file from `start`; CorruptShardError if it ends before `stop`."""
    buffer = memoryview(bytearray(_READ_BYTES))
    try:
        with path.open("rb", buffering=0) as file:
            offset = file.seek(start)
            while stop is None or offset < stop:
                wanted = len(buffer) if stop is None else min(len(buffer), stop - offset)
                if not (size := file.readinto(buffer[:wanted])):
                    break
                yield offset, buffer[:size]
                offset += size
    except OSError as error:
        raise CorruptShardError(f"cannot be read ({error.strerror})", path=path) from error
    if stop is not None and offset < stop:
        raise CorruptShardError(f"has {offset:,} bytes, {stop:,} are expected", path=path)
