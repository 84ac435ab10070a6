"""The bytes behind a record's uri: a path, an image inside a tar, or any URL that fsspec opens.

An image inside a tar is `tar://MEMBER::TAR`, fsspec's own chained URL. fsspec would read such members through one
shared file position, which threads must not do; local tars are therefore read here, at an offset, from an index of
their headers.
"""

from __future__ import annotations

import os
import stat
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

from manifests.tar_listing import list_tar

_OPEN_INDEXES = 8  # an index of 10 000 members is a few MB; a worker reads one or two tars at a time

REMOTE = frozenset({"http", "https", "s3", "gs", "gcs", "az", "abfs", "hf"})
"""Protocols that an annotation file from outside may name."""


def tar_uri(tar: Path | str, member: str) -> str:
    """Return the uri of a member of a tar."""
    return f"tar://{member}::{tar}"


def protocols(uri: str) -> tuple[str, ...]:
    """Return the protocols that a uri names, outermost first: `zip://a.jpg::s3://b/c.zip` has zip and s3; a path none.

    An http URL has one, whatever it holds.
    """
    if uri[:8].lower().startswith(("http://", "https://")):
        return (uri.partition("://")[0].lower(),)
    if "://" not in uri:
        return ()
    *outer, last = uri.split("::")
    names = [part.partition("://")[0].lower() for part in outer]
    return (*names, last.partition("://")[0].lower()) if "://" in last else tuple(names)


def is_remote(uri: str) -> bool:
    """Return whether a uri names a server or a store alone, through whatever chain, and no file of this machine's."""
    named = protocols(uri)
    return bool(named) and set(named) <= REMOTE


def is_local(uri: str) -> bool:
    """Return whether a uri is that of a file of this machine's, or of an image inside such a tar."""
    return protocols(uri) in ((), ("file",), ("tar",))


def tar_index(path: Path | str, *, stop_at: Callable[[str], bool] | None = None) -> dict[str, tuple[int, int]]:
    """Return (offset, size) in the file by member name, for the whole members before the first damaged header.

    stop_at: end with the first member whose name it accepts.
    """
    return list_tar(path, stop_at=stop_at).places


class ImageReader:
    """Read images by uri, from any number of threads."""

    def __init__(self) -> None:
        self._indexes: OrderedDict[str, dict[str, tuple[int, int]]] = OrderedDict()
        self._lock = Lock()

    def read(self, uri: str, limit: int = -1) -> bytes:
        """Return the bytes of an image, or the first `limit` of them where that is given.

        Raises OSError (FileNotFoundError, …) where they cannot be read, and what fsspec's file systems raise.
        """
        if protocols(uri) in ((), ("file",)):
            with open(uri.removeprefix("file://"), "rb", opener=_open_regular) as file:
                return file.read(limit)
        member, chained, tar = uri.partition("::")
        if chained and member.startswith("tar://") and "://" not in tar:
            return self._read_member(tar, member.removeprefix("tar://"), limit)
        import fsspec

        if chained:  # chained file systems share a position, see above
            with self._lock, fsspec.open(uri, "rb") as file:
                return _bytes(file, limit)
        with fsspec.open(uri, "rb") as file:
            return _bytes(file, limit)

    def _read_member(self, tar: str, member: str, limit: int) -> bytes:
        with self._lock:
            if tar not in self._indexes:
                self._indexes[tar] = tar_index(tar)
                if len(self._indexes) > _OPEN_INDEXES:
                    self._indexes.popitem(last=False)
            self._indexes.move_to_end(tar)
            place = self._indexes[tar].get(member)
        if place is None:
            raise FileNotFoundError(f"no member {member} in {tar}, or it lies behind a damaged header")
        offset, size = place[0], place[1] if limit < 0 else min(place[1], limit)
        with open(tar, "rb") as file:
            data = os.pread(file.fileno(), size, offset)
        if len(data) != size:
            raise OSError(f"{tar} ends inside member {member}")
        return data


def _open_regular(path: str, flags: int) -> int:
    """Open a regular file; raise OSError for a pipe or device, which could keep its reader waiting for ever."""
    descriptor = os.open(path, flags | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError("it is not a regular file")
    return descriptor


def _bytes(file: Any, limit: int) -> bytes:
    data = file.read(limit)
    assert isinstance(data, bytes)
    return data
