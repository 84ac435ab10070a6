"""Read an untrusted tar archive, compressed or not, with a bound on the ratio of unpacked to packed size."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

MAX_RATIO = 16
"""Maximum ratio of unpacked to packed size; archives of weights have less than 2."""
_FREE = 64 << 20
_OPENERS: tuple[tuple[bytes, Any], ...] = ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ\x00", lzma.open))


class ArchiveError(ValueError):
    """An archive that is damaged, or unpacks to far more than its size."""


class TooLargeError(ArchiveError):
    """An archive that unpacks to far more than its size."""


# Errors that the standard library raises for damaged content.
_DAMAGE = (
    tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, ValueError, TypeError, AttributeError,
    LookupError, OverflowError, RecursionError, MemoryError,
)  # fmt: skip


def _reason(error: BaseException) -> str:
    return str(error) or type(error).__name__


class _Archive(tarfile.TarFile):
    """A TarFile that raises ArchiveError for every damaged header."""

    def next(self) -> tarfile.TarInfo | None:
        try:
            return super().next()
        except ArchiveError:
            raise
        except _DAMAGE as error:
            raise ArchiveError(_reason(error)) from error


class _Bounded:
    """A stream that raises TooLargeError after `allowance` bytes."""

    def __init__(self, stream: IO[bytes], allowance: int) -> None:
        self._stream = stream
        self._left = allowance

    def read(self, size: int) -> bytes:
        if size > self._left:
            raise TooLargeError("it unpacks to far more than its size")
        try:
            data = self._stream.read(size)
        except OSError as error:
            if error.errno is not None:  # a disk error; bz2 and gzip raise OSError without errno for damaged content
                raise
            raise ArchiveError(_reason(error)) from error
        except _DAMAGE as error:
            raise ArchiveError(_reason(error)) from error
        self._left -= len(data)
        return data


@contextmanager
def open_tar(path: Path) -> Iterator[tarfile.TarFile]:
    """Open an archive for sequential reading; each member must be read before the next.

    Raises:
        ArchiveError: The archive is damaged, or unpacks to more than `MAX_RATIO` times its size. Reading members
            raises it too.
        OSError: The file cannot be read.
    """
    with path.open("rb") as raw:
        size, magic = path.stat().st_size, raw.read(6)
        raw.seek(0)
        opener = next((opener for prefix, opener in _OPENERS if magic.startswith(prefix)), None)
        with raw if opener is None else opener(raw) as stream:
            bounded: Any = _Bounded(stream, MAX_RATIO * size + _FREE)
            try:
                with _Archive.open(fileobj=bounded, mode="r|") as archive:
                    yield archive
            except tarfile.TarError as error:
                raise ArchiveError(_reason(error)) from error


def is_tar(path: Path) -> bool:
    """Return whether a file begins like a tar archive, compressed or not. Raise OSError if it cannot be read."""
    try:
        with open_tar(path):
            return True
    except TooLargeError:
        return True
    except ArchiveError:
        return False
