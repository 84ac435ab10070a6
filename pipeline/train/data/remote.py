"""Files of a remote data set: read and downloaded by fsspec, checked before they count."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from vilbert.pipeline.errors import CorruptShardError, ShardError
from vilbert.pipeline.urls import is_remote, join, open_file_system, public_url

__all__ = ["RemoteError", "download", "is_remote", "join", "public_url", "read_files"]

_Result = TypeVar("_Result")
_ATTEMPTS = 3
RETRY_SECONDS = 1.0
"""Wait before a second attempt; twice as long before the third."""


class RemoteError(ShardError):
    """A remote file that a server does not hand out; says which, and what the server said."""


def read_files(urls: Sequence[str]) -> list[bytes]:
    """Return the content of some small files of one place, fetched side by side where the protocol can.

    Raises RemoteError where one is not there or the server fails three times.
    """
    file_system = _file_system(urls[0])
    paths = [file_system._strip_protocol(url) for url in urls]

    def fetch() -> list[bytes]:
        found = file_system.cat(paths, on_error="raise")
        # One path gives its bytes, several a mapping.
        return [found] if isinstance(found, bytes) else [found[path] for path in paths]

    return _retry(fetch, urls[0])


def download(url: str, folder: Path, *, name: str, size: int, sha256: str) -> Path:
    """Fetch a file whole into `folder` and return its path; it has the expected size and hash.

    folder: a folder of this call only, so that no other process sees the file before it is verified.

    Raises RemoteError where the server fails three times, CorruptShardError if there is no such file or it is
    another than the record says, twice in a row.
    """
    file_system, shown, path = _file_system(url), public_url(url), folder / name

    def fetch() -> Path:
        try:
            file_system.get_file(file_system._strip_protocol(url), str(path))
        except FileNotFoundError as error:
            raise _other_bytes(shown, "is missing, though its record is there") from error
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
            length = file.tell()
        if (length, found) != (size, sha256):
            raise _other_bytes(shown, f"gave {length} bytes of SHA-256 {found}; the record says {size} of {sha256}")
        return path

    try:
        return _retry(fetch, url)
    except CorruptShardError:
        return _retry(fetch, url)  # once more: a connection that broke looks like a damaged file


def _other_bytes(shown: str, problem: str) -> CorruptShardError:
    remedy = "copy the data set to its place again, or rewrite the shard with the command that wrote it"
    # A Path would make one slash of the two behind the scheme.
    return CorruptShardError(f"{shown} {problem}", path=Path(shown.rpartition("/")[2]), remedy=remedy)


def _file_system(url: str) -> Any:
    """Return fsspec's file system for a URL."""
    from aiohttp import ClientTimeout

    web = url.startswith(("http://", "https://"))
    # fsspec's own limit of 5 minutes a file is too short for a large shard on a slow line; a minute of silence is not.
    settings = {"client_kwargs": {"timeout": ClientTimeout(total=None, sock_connect=30, sock_read=60)}} if web else {}
    return open_file_system(url, **settings)[0]


def _retry(fetch: Callable[[], _Result], url: str) -> _Result:
    """Call `fetch`, again where the server fails; RemoteError when it failed three times."""
    from aiohttp import ClientError

    def give_up(state: RetryCallState) -> NoReturn:
        error = state.outcome.exception() if state.outcome else None
        raise RemoteError(
            f"{public_url(url)}: download failed {_ATTEMPTS} times: "
            f"{type(error).__name__}: {error}; check the server, then run the same command again"
        ) from error

    def ask() -> _Result:
        try:
            return fetch()
        except FileNotFoundError as error:
            raise RemoteError(f"{public_url(url)}: not found; check the URL and its permissions") from error

    return Retrying(
        retry=retry_if_exception_type((OSError, ClientError)),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_exponential(multiplier=RETRY_SECONDS),
        retry_error_callback=give_up,
    )(ask)
