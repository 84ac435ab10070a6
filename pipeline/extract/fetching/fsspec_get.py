"""One attempt to fetch an image by an fsspec URL: s3://, gs://, az://, memory://, file://, ... and chains of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from vilbert.extractors.decode import ImageError
from vilbert.manifests.uri import NEVER_OPENED, ImageReader, protocols
from vilbert.pipeline.errors import StoppedError
from vilbert.pipeline.extract.fetching.memory_budget import NoRoomError

Result = TypeVar("Result")


def missing_driver(scheme: str) -> str | None:
    """Return what fsspec says of the package that a scheme needs, None where it is installed or the scheme unknown."""
    import fsspec

    try:
        fsspec.get_filesystem_class(scheme)
    except ImportError as error:
        return str(error)
    except Exception:  # no such scheme, or a package that fails when it is imported: its rows fail one by one
        return None
    return None


def fsspec_get(
    uri: str, *, reader: ImageReader, max_bytes: int, timeout: float, make_room: Callable[[int], None]
) -> bytes:
    """Return the bytes behind a URL.

    timeout: seconds, but for members of archives. make_room: called with the number of bytes that are to be held before
    they are read; what it raises is passed on. Raises ImageError.
    """
    try:
        return _get(uri, reader, max_bytes, timeout, make_room)
    except (ImageError, NoRoomError, StoppedError):
        raise
    except FileNotFoundError:
        raise ImageError("missing_file", "no such file") from None
    except TimeoutError:
        raise ImageError("timeout", "the download exceeded its time limit") from None
    except ConnectionError as error:
        raise ImageError("connection") from error
    except Exception as error:  # file systems behind fsspec raise errors of their own kinds
        if any(kind.__name__ in _CONNECTION_ERRORS for kind in type(error).__mro__):
            raise ImageError("connection") from error
        raise ImageError("unreadable", f"{type(error).__name__}: {error}") from error


_CONNECTION_ERRORS = {"ClientConnectionError", "ClientPayloadError", "HTTPClientError"}
"""Class names of errors of aiohttp and botocore, which need not be installed."""


def _get(uri: str, reader: ImageReader, max_bytes: int, timeout: float, make_room: Callable[[int], None]) -> bytes:
    import fsspec

    for scheme in protocols(uri):
        if scheme in NEVER_OPENED:
            raise ImageError("unsupported_scheme", f"{scheme}:// URLs are not supported")
        if missing_driver(scheme) is not None:
            raise ImageError("unsupported_scheme", f"the package that {scheme}:// needs is not installed")
    if "::" in uri:  # fsspec reads archives through one shared position, so the reader takes turns
        make_room(max_bytes + 1)
        return _within(reader.read(uri, max_bytes + 1), max_bytes)
    try:
        file_system, path = fsspec.core.url_to_fs(uri)
    except ImportError as error:
        raise ImageError("unsupported_scheme", f"a package that it needs is not installed: {error}") from error
    except ValueError as error:
        raise ImageError("bad_url", str(error)) from error
    if file_system.async_impl:
        data: bytes = fsspec.asyn.sync(
            file_system.loop, _read, file_system, path, max_bytes, make_room, timeout=timeout
        )
        return data
    begun = time.monotonic()
    file = _in_time(lambda: file_system.open(path, "rb"), timeout)
    left = timeout - (time.monotonic() - begun)
    size = getattr(file, "size", None)
    make_room(min(size if isinstance(size, int) else max_bytes, max_bytes) + 1)

    def read() -> bytes:
        with file:
            return bytes(file.read(max_bytes + 1))

    return _within(_in_time(read, left), max_bytes)


def _in_time(call: Callable[[], Result], seconds: float) -> Result:
    """Return the result of a call that cannot be interrupted; raise TimeoutError and abandon it after `seconds`."""
    result: Future[Result] = Future()

    def work() -> None:
        try:
            result.set_result(call())
        except BaseException as error:  # it is raised in the thread that waits for the result
            result.set_exception(error)

    threading.Thread(target=work, name="fsspec", daemon=True).start()
    return result.result(max(seconds, 0.0))


async def _read(file_system: Any, path: str, max_bytes: int, make_room: Callable[[int], None]) -> bytes:
    size = (await file_system._info(path)).get("size")
    if not isinstance(size, int):
        raise ImageError("unreadable", "its size is unknown before it is read")
    if size > max_bytes:
        raise ImageError("too_large", f"more than {max_bytes} bytes")
    make_room(size)
    data: bytes = await file_system._cat_file(path)
    return _within(data, max_bytes)


def _within(data: bytes, max_bytes: int) -> bytes:
    if len(data) > max_bytes:
        raise ImageError("too_large", f"more than {max_bytes} bytes")
    return data
