"""Files of a remote data set: read by fsspec, downloaded by webdataset's file cache, checked before they count.

webdataset would fetch http with curl and run `pipe:` URLs as commands. A scheme of our own sends its downloads through
fsspec, whatever the protocol, and leaves webdataset's other schemes as they are.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from vilbert.pipeline.errors import CorruptShardError, ShardError
from vilbert.pipeline.urls import is_remote, join, open_file_system, public_url

__all__ = ["RemoteError", "download", "is_remote", "join", "public_url", "read_files"]

_Result = TypeVar("_Result")
_SCHEME = "fsspec-file"
_ATTEMPTS = 3
RETRY_SECONDS = 1.0
"""Wait before a second attempt; twice as long before the third."""


class RemoteError(ShardError):
    """A remote file that a server does not hand out; says which, and what the server said."""


def read_files(urls: Sequence[str]) -> list[bytes]:
    """Return the content of some small files of one place, fetched side by side where the protocol can.

    Raises RemoteError where one is not there or the server fails three times.
    """
    file_system, _ = _file_system(urls[0])
    paths = [file_system._strip_protocol(url) for url in urls]

    def fetch() -> list[bytes]:
        found = file_system.cat(paths, on_error="raise")
        # One path gives its bytes, several a mapping.
        return [found] if isinstance(found, bytes) else [found[path] for path in paths]

    return _retry(fetch, urls[0])


def download(url: str, folder: Path, *, name: str, size: int, sha256: str) -> Path:
    """Fetch a file whole into `folder` and return its path; it has the expected size and hash.

    folder: of this call alone, so that nobody sees the file before it is checked.

    Raises RemoteError where the server fails three times, CorruptShardError if there is no such file or it is
    another than the record says, twice in a row.
    """
    # Imported late: it takes a while and local data needs none of it.
    from webdataset.cache import FileCache
    from webdataset.gopen import gopen_schemes

    gopen_schemes[_SCHEME] = _open_for_webdataset
    shown = public_url(url)

    def check(path: str) -> bool:
        with Path(path).open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            length = file.tell()
        if (length, found) != (size, sha256):
            Path(path).unlink()
            raise _other_bytes(shown, f"gave {length} bytes of SHA-256 {found}; the record says {size} of {sha256}")
        return True

    cache = FileCache(str(folder), url_to_name=lambda _: name, validator=check)

    def fetch() -> Path:
        try:
            return Path(cache.get_file(f"{_SCHEME}:{url}"))
        except FileNotFoundError as error:
            raise _other_bytes(shown, "is missing, though its record is there") from error

    try:
        return _retry(fetch, url)
    except CorruptShardError:
        return _retry(fetch, url)  # once more: a connection that broke looks like a damaged file


def _other_bytes(shown: str, problem: str) -> CorruptShardError:
    remedy = "copy the data set to its place again, or rewrite the shard with the command that wrote it"
    # A Path would make one slash of the two behind the scheme.
    return CorruptShardError(f"{shown} {problem}", path=Path(shown.rpartition("/")[2]), remedy=remedy)


def _open_for_webdataset(url: str, mode: str = "rb", bufsize: int = 8192) -> BinaryIO:
    """Open `fsspec-file:URL` as `webdataset.gopen` asks for it."""
    del bufsize
    target = url.removeprefix(f"{_SCHEME}:")
    file_system, options = _file_system(target)
    return cast(BinaryIO, file_system.open(file_system._strip_protocol(target), mode, **options))


def _file_system(url: str) -> tuple[Any, dict[str, Any]]:
    """Return fsspec's file system for a URL, and the options to stream one of its files from front to back."""
    from aiohttp import ClientTimeout

    web = url.startswith(("http://", "https://"))
    # fsspec's own limit of 5 minutes a file is too short for a large shard on a slow line; a minute of silence is not.
    settings = {"client_kwargs": {"timeout": ClientTimeout(total=None, sock_connect=30, sock_read=60)}} if web else {}
    file_system, _ = open_file_system(url, **settings)
    return file_system, {"block_size": 0} if web else {}


def _retry(fetch: Callable[[], _Result], url: str) -> _Result:
    """Call `fetch`, again where the server fails; RemoteError when it failed three times."""
    from aiohttp import ClientError

    for attempt in range(_ATTEMPTS):
        try:
            return fetch()
        except FileNotFoundError as error:
            raise RemoteError(f"{public_url(url)}: not found; check the URL and its permissions") from error
        except (OSError, ClientError) as error:
            if attempt + 1 == _ATTEMPTS:
                raise RemoteError(
                    f"{public_url(url)}: download failed {_ATTEMPTS} times: "
                    f"{type(error).__name__}: {error}; check the server, then run the same command again"
                ) from error
            time.sleep(RETRY_SECONDS * 2**attempt)
    raise AssertionError("unreachable: the last attempt returns or raises")
