"""One attempt to fetch an image by an http or https URL: the bytes, or the reason of the failure.

Length and type from the server are not trusted: the bytes are counted, and the decoder determines the type.
"""

from __future__ import annotations

import base64
import contextlib
import mmap
import sys
import threading
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from urllib.parse import unquote, urljoin

import urllib3
from urllib3.exceptions import DecodeError, LocationValueError, NewConnectionError, SSLError
from urllib3.util import Timeout, Url, parse_url

from vilbert.extractors.decode import ImageError
from vilbert.pipeline.errors import StoppedError
from vilbert.pipeline.extract.fetching.deadlines import Deadlines, Exchange
from vilbert.pipeline.extract.fetching.host_limits import HostLimits
from vilbert.pipeline.extract.fetching.http_connections import Connections
from vilbert.pipeline.extract.fetching.memory_budget import NoRoomError
from vilbert.pipeline.extract.fetching.settings import FetchSettings

_CHUNK = 64 * 1024
_MEBIBYTE = 1024 * 1024
_DIGITS = 19
"""Maximum number of digits of a byte count in a header."""
_REDIRECTS = (301, 302, 303, 307, 308)
_SUCCESS = (200, 203)


class BusyError(ImageError):
    """A failed attempt, with the wait in seconds that the server requested."""

    def __init__(self, reason: str, detail: str, host: str, seconds: float) -> None:
        super().__init__(reason, detail)
        self.host = host
        self.seconds = seconds


class HttpGetter:
    """Sends requests to web servers, from any number of threads."""

    def __init__(self, settings: FetchSettings) -> None:
        self._settings = settings
        self.connections = Connections(
            per_host=settings.per_host, allow_private_addresses=settings.allow_private_addresses
        )
        self._deadlines = Deadlines()
        self._stopped = threading.Event()
        self.hosts = HostLimits(per_host=settings.per_host, delay=settings.per_host_delay)

    def stop(self) -> None:
        """End all requests in progress."""
        self._stopped.set()
        self.hosts.stop()
        self._deadlines.stop()

    def get(self, url: str, *, max_bytes: int, make_room: Callable[[int], None]) -> bytes:
        """Return the bytes behind a URL.

        make_room: called with the number of bytes that are to be held before they are read; what it raises is passed
        on. Raises ImageError; StoppedError after `stop`.
        """
        left = self._settings.fetch_timeout
        first = parse(url)
        for _ in range(self._settings.max_redirects + 1):
            parts = parse(url)
            with self.hosts.turn(str(parts.host)), self._deadlines.limit(left) as exchange:
                begun = time.monotonic()
                answer = self._ask(parts, authorization(first, parts), exchange, max_bytes, make_room)
                left -= time.monotonic() - begun
            if isinstance(answer, bytes):
                return answer
            url = redirect_target(parts._replace(auth=None).url, answer)
            if not url.lower().startswith(("http://", "https://")):
                raise ImageError("redirects", "to a URL that is not http or https")
            if left <= 0:
                raise ImageError("timeout", "the download exceeded its time limit")
        raise ImageError("redirects", f"more than {self._settings.max_redirects}")

    def _ask(
        self,
        parts: Url,
        authorization: dict[str, str],
        exchange: Exchange,
        max_bytes: int,
        make_room: Callable[[int], None],
    ) -> bytes | str:
        """Return the body, or the target of a redirect."""
        try:
            return self._exchange(parts, authorization, max_bytes, make_room, exchange)
        except (ImageError, NoRoomError, StoppedError):
            raise
        except Exception as error:  # the per-image boundary: what a server can make of an answer has no end
            if self._stopped.is_set():
                raise StoppedError from None
            raise explain(error, over=exchange.over) from error

    def _exchange(
        self,
        parts: Url,
        authorization: dict[str, str],
        max_bytes: int,
        make_room: Callable[[int], None],
        exchange: Exchange,
    ) -> bytes | str:
        settings = self._settings
        manager = self.connections.manager(str(parts.scheme), str(parts.host))
        response = manager.urlopen(
            "GET",
            parts._replace(auth=None).url,
            redirect=False,
            retries=False,
            preload_content=False,
            timeout=Timeout(connect=settings.connect_timeout, read=settings.read_timeout),
            headers={
                "User-Agent": settings.user_agent,
                "Accept": "image/*,*/*;q=0.5",
                "Accept-Encoding": "identity",
                **authorization,
            },
        )
        whole = False
        try:
            if response.status in _REDIRECTS and "Location" in response.headers:
                return str(response.headers["Location"])
            if response.status not in _SUCCESS:
                raise refusal(response, str(parts.host))
            body = read_body(response, max_bytes, make_room)
            exchange.remaining()  # the end of a connection that was cut looks like the end of a body without a length
            whole = True
            return body
        finally:
            if whole:
                response.release_conn()
            else:
                response.close()


def parse(url: str) -> Url:
    """Return the parts of a URL; raise ImageError if it is not one, or has no host."""
    try:
        parts = parse_url(url)._replace(fragment=None)
    except ValueError:  # LocationParseError is one
        raise ImageError("bad_url") from None
    if not parts.host:
        raise ImageError("bad_url", "it has no host")
    if "%" in parts.host and not parts.host.startswith("["):
        raise ImageError("bad_url", "its host contains escaped characters")
    return parts


def authorization(first: Url, parts: Url) -> dict[str, str]:
    """Return the header with the user and password that the first URL names, for the host of that URL alone.

    A redirect to another scheme, host or port gets none, but one from http to https on the usual ports does. What a
    redirect itself names is not used.
    """
    if first.auth is None:
        return {}
    ports = {"http": 80, "https": 443}
    here, there = ((url.host, url.port or ports.get(str(url.scheme))) for url in (first, parts))
    upgraded = (first.scheme, here[1], parts.scheme, there[1]) == ("http", 80, "https", 443)
    if here[0] != there[0] or not (upgraded or (first.scheme == parts.scheme and here == there)):
        return {}
    return {"Authorization": "Basic " + base64.b64encode(unquote(first.auth).encode()).decode()}


def read_body(response: urllib3.BaseHTTPResponse, max_bytes: int, make_room: Callable[[int], None]) -> bytes:
    """Return a body, decompressed, and at most `max_bytes` of it."""
    announced = response.headers.get("Content-Length", "")
    length = None
    if announced.isdecimal() and "Content-Encoding" not in response.headers:
        length = int(announced) if len(announced) < _DIGITS else sys.maxsize
        if length > max_bytes:
            raise ImageError("too_large", f"more than {max_bytes} bytes")
        make_room(length)
    with contextlib.closing(_Body(length or _CHUNK)) as body:
        while chunk := response.read1(_CHUNK):
            if body.size + len(chunk) > max_bytes:
                raise ImageError("too_large", f"more than {max_bytes} bytes")
            make_room(body.size + len(chunk))
            body.append(chunk)
        return body.value()


class _Body:
    """Bytes that grow, in pages of their own.

    malloc would keep what the threads free: a hundred threads that drop half of a large image each held 900 MB.
    """

    def __init__(self, capacity: int) -> None:
        self.size = 0
        self._pages = _pages(capacity)

    def append(self, chunk: bytes) -> None:
        if self.size + len(chunk) > len(self._pages):
            larger = _pages(2 * (self.size + len(chunk)))
            for start in range(0, self.size, _MEBIBYTE):
                larger.write(self._pages[start : min(start + _MEBIBYTE, self.size)])
            self._pages.close()
            self._pages = larger
        self._pages[self.size : self.size + len(chunk)] = chunk
        self.size += len(chunk)

    def value(self) -> bytes:
        return self._pages[: self.size]

    def close(self) -> None:
        self._pages.close()


def _pages(size: int) -> mmap.mmap:
    return mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def refusal(response: urllib3.BaseHTTPResponse, host: str) -> ImageError:
    """Return the error for a response without an image."""
    status = response.status
    if not 100 <= status <= 999:
        return ImageError("connection", "the response is not HTTP")
    phrase = HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else ""
    detail = f"the server answered {status} {phrase}".rstrip()
    seconds = retry_after(response.headers.get("Retry-After"), now=time.time())
    return (
        ImageError(f"http_{status}", detail) if seconds is None else BusyError(f"http_{status}", detail, host, seconds)
    )


def retry_after(header: str | None, *, now: float) -> float | None:
    """Return the seconds that a Retry-After header asks for, be it a number or a date; None where it says neither."""
    if header is None:
        return None
    if header.strip().isdecimal():
        return float(header)
    try:
        return max(0.0, parsedate_to_datetime(header).timestamp() - now)
    except (ValueError, OverflowError):  # there is no such day
        return None


def explain(error: Exception, *, over: bool) -> ImageError:
    """Return the reason behind an error of the connection; over: whether its time was up.

    A detail is the same on every run, so it tells no address, byte count or time.
    """
    if over:
        return ImageError("timeout", "the download exceeded its time limit")
    match error:
        case NewConnectionError():  # urllib3 counts it among the timeouts
            return ImageError("connection")
        case urllib3.exceptions.TimeoutError() | TimeoutError():
            return ImageError("timeout", "connecting or reading timed out")
        case SSLError():
            return ImageError("tls")
        case DecodeError():
            return ImageError("corrupt", "its Content-Encoding cannot be decoded")
        case LocationValueError() | UnicodeError():
            return ImageError("bad_url")
    return ImageError("connection")


def redirect_target(base: str, location: str) -> str:
    """Return where a Location header points to; servers put UTF-8 into it, which http reads as Latin-1."""
    with contextlib.suppress(UnicodeError):
        location = location.encode("latin-1").decode("utf-8")
    try:
        return urljoin(base, location)
    except ValueError:
        raise ImageError("redirects", "to an invalid URL") from None
