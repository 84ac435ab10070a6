"""Read the bytes of a record's uri: a path, an image inside a tar, or a URL that fsspec opens.

An image inside a tar is `tar://MEMBER::TAR`, a chained URL of fsspec. fsspec reads such members through a shared file
position, which is not thread-safe. Local tars are therefore read here by offset, from an index of their headers.
"""

from __future__ import annotations

import os
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from threading import Lock
from typing import Any

from vilbert.manifests.readers.tar_listing import list_tar
from vilbert.manifests.regular_file import open_regular, require_regular

NEVER_OPENED = frozenset(
    {"async_wrapper", "asynclocal", "blockcache", "cached", "dask", "dir", "dvc", "filecache", "generic", "git"}
    | {"jlab", "jupyter", "local", "pyscript", "reference", "simplecache"}
)
"""Schemes of fsspec that copy whole files to the local disk, open local repositories and files under another name, run
a program, or forward to any other URL. Manifests do not need them."""
ANY_HOST = frozenset(
    {"http", "https", "arrow_hdfs", "dask", "ftp", "generic", "hdfs", "jlab", "jupyter", "reference", "root", "sftp"}
    | {"smb", "ssh", "webdav", "webhdfs"}
)
"""Schemes whose URLs can name any host; the schemes of object stores cannot."""
_USER = re.compile(rf"\b((?:{'|'.join(sorted(ANY_HOST))})://)[^/?#\s]*@", re.IGNORECASE)
_SECRET = re.compile(
    r"(?<=[?&])((?:x-(?:amz|goog)-(?:signature|credential|security-token)|signature|sig|awsaccesskeyid|policy|key-pair-id"
    r"|(?:access_?|auth_?)?token|(?:api_?)?key|password)=)"
    r"[^&#\s]+",
    re.IGNORECASE,
)
_FILE = re.compile(r"\Afile://", re.IGNORECASE)
_OPEN_INDEXES = 8  # an index of 10,000 members takes a few MB; a worker reads one or two tars at a time

REMOTE = frozenset({"http", "https", "s3", "gs", "gcs", "az", "abfs", "hf"})
"""Protocols that an untrusted annotation file may name."""


def tar_uri(tar: Path | str, member: str) -> str:
    """Return the uri of a member of a tar."""
    return f"tar://{member}::{tar}"


def protocols(uri: str) -> tuple[str, ...]:
    """Return the protocols of a uri, outermost first: zip and s3 for `zip://a.jpg::s3://b/c.zip`, none for a path.

    An http URL has exactly one, whatever its path contains.
    """
    if uri[:8].lower().startswith(("http://", "https://")):
        return (uri.partition("://")[0].lower(),)
    if "://" not in uri:
        return ()
    *outer, last = uri.split("::")
    names = [part.partition("://")[0].lower() for part in outer]
    return (*names, last.partition("://")[0].lower()) if "://" in last else tuple(names)


def is_remote(uri: str) -> bool:
    """Return whether all protocols of a uri, which may be chained, are remote, so that it names no local file."""
    named = protocols(uri)
    return bool(named) and set(named) <= REMOTE


def mask_credentials(text: str) -> str:
    """Remove user names, passwords and signatures from a uri, or from the URLs in a text.

    The user of `https://user:password@host/a.jpg` is removed; the signature of a presigned URL is replaced with `***`.
    """
    if "@" not in text and "=" not in text:
        return text
    return _SECRET.sub(r"\1***", _USER.sub(r"\1", text))


def refused_scheme(uri: str) -> str | None:
    """Return the first unsupported scheme of a uri, or None."""
    return next((scheme for scheme in protocols(uri) if scheme in NEVER_OPENED), None)


def is_local(uri: str) -> bool:
    """Return whether a uri names a local file, or an image inside a local tar."""
    return protocols(uri) in ((), ("file",), ("tar",))


def tar_index(path: Path | str, *, stop_at: Callable[[str], bool] | None = None) -> dict[str, tuple[int, int]]:
    """Return (offset, size) by member name, for the complete members before the first damaged header.

    Args:
        path: The tar.
        stop_at: Stop after the first member whose name it accepts.
    """
    return list_tar(path, stop_at=stop_at).places


class ImageReader:
    """Reads images by uri. Thread-safe."""

    def __init__(self) -> None:
        self._indexes: OrderedDict[str, dict[str, tuple[int, int]]] = OrderedDict()
        self._lock = Lock()  # protects the indexes
        self._turns = Lock()  # serialises reads from archives through fsspec

    def read(self, uri: str, limit: int = -1) -> bytes:
        """Return the bytes of an image, or the first `limit` of them if given.

        Raises:
            OSError: The image cannot be read (FileNotFoundError, …). File systems of fsspec may raise other errors.
        """
        if protocols(uri) in ((), ("file",)):
            with open(_FILE.sub("", uri), "rb", opener=open_regular) as file:
                return file.read(limit)
        member, chained, tar = uri.partition("::")
        if chained and member[:6].lower() == "tar://" and "://" not in tar:
            return self._read_member(tar, member[6:], limit)
        if (scheme := refused_scheme(uri)) is not None:
            raise OSError(f"{scheme}:// URLs are not supported")
        import fsspec

        if chained:  # chained file systems share a position, see above
            _check_regular(uri)
            with self._turns, fsspec.open(uri, "rb") as file:
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
            raise FileNotFoundError(f"no member {member} in {tar}, or it follows a damaged header")
        offset, size = place[0], place[1] if limit < 0 else min(place[1], limit)
        with open(tar, "rb", opener=open_regular) as file:
            data = os.pread(file.fileno(), size, offset)
        if len(data) != size:
            raise OSError(f"{tar} ends inside member {member}")
        return data


def _check_regular(uri: str) -> None:
    """Raise OSError if a chain ends in a local path that is a pipe, device or folder, or does not exist."""
    last = uri.rpartition("::")[2]
    if "://" not in last or _FILE.match(last):
        require_regular(_FILE.sub("", last))


def _bytes(file: Any, limit: int) -> bytes:
    data = file.read(limit)
    assert isinstance(data, bytes)
    return data
