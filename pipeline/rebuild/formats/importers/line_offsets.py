"""Line offsets of a large text file, found once and stored for other processes; .gz files are unpacked."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import tempfile
import zlib
from array import array
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.manifests.regular_file import open_regular
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.importers.imported_source import MAX_ROW_BYTES
from vilbert.pipeline.rebuild.formats.importers.published_image import RowError
from vilbert.pipeline.shards.storage.atomic import temporary_path
from vilbert.untrusted.arrays import ArrayError, read_npy

_CHUNK = 2 << 20
MAX_GZIP_RATIO = 64
"""Maximum ratio of unpacked to packed bytes of a .gz file above one gigabyte; base64 of float32 has more than 2."""
_GZIP_FREE = 1 << 30
_GZIP_MAGIC = b"\x1f\x8b"
_END = re.compile(rb"\n")
_EMPTY = (b"\n", b"\r", b"")


def is_gzip(path: Path) -> bool:
    """Return whether a file begins with gzip's magic bytes."""
    with open(path, "rb", opener=open_regular) as file:
        return file.read(2) == _GZIP_MAGIC


class Lines:
    """The lines of a text file, plain or .gz, by index. Empty lines are skipped."""

    def __init__(self, path: Path, scratch: Path | None) -> None:
        """Open a file and find its lines: from `FILE.lineidx`, from the folder `scratch`, or by reading the file once.

        Raises:
            ShardError: It cannot be read, or is a damaged .gz file.
        """
        self.path = path
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        try:
            if is_gzip(path):
                if scratch is None:
                    self._folder = tempfile.TemporaryDirectory(prefix="vilbert-unpacked-")
                    scratch = Path(self._folder.name)
                path = _kept(scratch, path, "tsv", lambda target: _unpack(path, target))
            self._file = open(path, "rb", opener=open_regular)  # noqa: SIM115 (closed by close)
        except OSError as error:
            self._release()
            raise ShardError(f"{self.path}: cannot be read ({error.strerror or error})") from error
        except ShardError:
            self._release()
            raise
        self._size = os.fstat(self._file.fileno()).st_size
        try:
            self._starts, self._stops = self._find(path, scratch)
        except BaseException:
            self.close()
            raise

    def _find(self, path: Path, scratch: Path | None) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        index = path.with_suffix(".lineidx")
        if path.suffix == ".tsv" and index.is_file():
            starts = _read_lineidx(index, self._size)
            if any(os.pread(self._file.fileno(), 1, at - 1) != b"\n" for at in starts[1:].tolist()[-3:]):
                raise ShardError(f"{index}: is not the line index of {path}: delete it, it will be rebuilt")
        elif scratch is None:
            starts = scan_lines(path)
        else:
            kept = _kept(scratch, path, "npy", lambda target: _save(target, scan_lines(path)))
            try:
                starts = read_npy(kept)
            except (ArrayError, OSError) as error:
                raise ShardError(f"{kept}: a damaged line index ({error}): delete it, it will be rebuilt") from error
        stops = np.append(starts[1:], self._size)
        return starts, stops

    def __len__(self) -> int:
        return len(self._starts)

    def line(self, row: int) -> bytes:
        """Return a line without its line end; raise RowError if the file has become shorter or the line is too long."""
        start, stop = int(self._starts[row]), int(self._stops[row])
        if stop - start > MAX_ROW_BYTES:
            raise RowError("broken_row", f"the line at byte {start:,} has {stop - start:,} bytes")
        data = os.pread(self._file.fileno(), stop - start, start)
        if len(data) != stop - start:
            raise RowError("broken_row", f"the file ends within the line at byte {start:,}")
        line = data.rstrip(b"\r\n")
        if b"\n" in line:  # an index of lines that belongs to another file
            raise RowError("broken_row", f"the line index has no entry for a line after byte {start:,}")
        return line

    def head(self, row: int, size: int) -> bytes:
        """Return at most this many bytes of the beginning of a line."""
        start, stop = int(self._starts[row]), int(self._stops[row])
        return os.pread(self._file.fileno(), min(stop - start, size), start).split(b"\n", 1)[0]

    def close(self) -> None:
        """Close the file, and delete data that was unpacked for this process only."""
        self._file.close()
        self._release()

    def _release(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()
            self._folder = None


def scan_lines(path: Path) -> NDArray[np.int64]:
    """Return the offsets of the lines that are not empty; reads the file once, with one chunk in memory."""
    starts = array("q")
    at, begins_line = 0, True
    with open(path, "rb", opener=open_regular) as file:
        while chunk := file.read(_CHUNK):
            begins = [0] if begins_line else []
            begins += [match.end() for match in _END.finditer(chunk)]
            begins_line = begins[-1:] == [len(chunk)]
            starts.extend(at + begin for begin in begins if chunk[begin : begin + 1] not in _EMPTY)
            at += len(chunk)
    return np.array(starts, np.int64)


def _read_lineidx(path: Path, size: int) -> NDArray[np.int64]:
    """Return the offsets that Oscar's TSV tools store beside a file: a decimal number per line.

    Raises:
        ShardError: The offsets do not match a file of this size.
    """
    try:
        with open(path, "rb", opener=open_regular) as file:
            starts = np.array(file.read().split(), dtype=np.int64)
    except (OSError, ValueError, OverflowError) as error:
        raise ShardError(f"{path}: not a line index ({str(error)[:100]}): delete it, it will be rebuilt") from error
    if not len(starts) or starts[0] != 0 or (np.diff(starts) <= 0).any() or starts[-1] >= size:
        raise ShardError(f"{path}: is not the line index of its file of {size:,} bytes: delete it, it will be rebuilt")
    return starts


def _kept(folder: Path, source: Path, suffix: str, make: Callable[[Path], None]) -> Path:
    """Return what `make` wrote for a file, in this or another process; repeated if the file changes."""
    status = source.stat()
    identity = json.dumps([str(source.resolve()), status.st_size, status.st_mtime_ns])
    target = folder / f"{hashlib.sha256(identity.encode('utf-8', 'backslashreplace')).hexdigest()[:32]}.{suffix}"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(target)
        try:
            make(temporary)
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    return target


def _save(path: Path, array: NDArray[Any]) -> None:
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=False)


def _unpack(source: Path, target: Path) -> None:
    left = MAX_GZIP_RATIO * source.stat().st_size + _GZIP_FREE
    try:
        with gzip.open(source, "rb") as packed, target.open("wb") as file:
            while chunk := packed.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    raise ShardError(f"{source}: refused: it unpacks to more than {MAX_GZIP_RATIO} times its size")
                file.write(chunk)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ShardError(f"{source}: a damaged .gz file ({error}): download it again") from error
    except OSError as error:
        raise ShardError(f"{source}: cannot be unpacked to {target.parent} ({error.strerror or error})") from error
