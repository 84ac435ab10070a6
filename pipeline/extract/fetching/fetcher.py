"""Fetch images by URL: http and https with the package's own client, other schemes with fsspec.

An attempt that fails for a temporary reason is repeated after an exponentially growing wait. The result is the bytes or
an ImageError; timing and order do not affect it.
"""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from vilbert.extractors.decode import ImageError
from vilbert.extractors.images.error import is_transient
from vilbert.manifests.record import ImageRecord
from vilbert.manifests.uri import ANY_HOST, ImageReader, is_local, protocols
from vilbert.pipeline.errors import RefusedError, StoppedError
from vilbert.pipeline.extract.fetching.fsspec_get import fsspec_get, missing_driver
from vilbert.pipeline.extract.fetching.host_limits import HostLimits
from vilbert.pipeline.extract.fetching.http_get import BusyError, HttpGetter
from vilbert.pipeline.extract.fetching.memory_budget import MemoryBudget, NoRoomError, Share
from vilbert.pipeline.extract.fetching.read_ahead import ReadAhead
from vilbert.pipeline.extract.fetching.settings import FetchSettings
from vilbert.pipeline.extract.prepare import fetch as read_file

Result = TypeVar("Result")
logger = logging.getLogger(__name__)

_HTTP = {"http", "https"}
_FIRST_ROOM = 1 << 20
"""Memory reserved for a fetch before it starts, in bytes; most images on the web are smaller."""


class Fetcher:
    """Fetches images, from any number of threads."""

    def __init__(self, settings: FetchSettings, reader: ImageReader, *, max_bytes: int) -> None:
        self._settings = settings
        self._reader = reader
        self._max_bytes = max_bytes
        self._http = HttpGetter(settings)
        self._stores = HostLimits(per_host=settings.per_store, delay=0.0)
        self._stopped = threading.Event()
        self._trying: set[int] = set()

    def stop(self) -> None:
        """Make all fetches in progress end with StoppedError."""
        self._stopped.set()
        self._http.stop()
        self._stores.stop()

    def check(self, uris: Iterable[str]) -> None:
        """Check a manifest's first rows for images that cannot be fetched here: missing packages, unsupported proxies.

        Rows that need a missing package fail one by one, so they are warned of; RefusedError is raised where none of
        the rows can be fetched.
        """
        schemes = [() if is_local(uri) else protocols(uri) for uri in uris]
        named = {name for names in schemes for name in names}
        if not _HTTP.isdisjoint(named):
            self._http.connections.check_proxies()
        missing = {name: told for name in sorted(named - _HTTP) if (told := missing_driver(name)) is not None}
        if not missing:
            return
        advice = "; ".join(
            f"images at {name}:// need a package that is not installed ({missing[name]})" for name in missing
        )
        if all(not missing.keys().isdisjoint(names) for names in schemes):
            raise RefusedError(f"{advice}; install it on every node")
        logger.warning(
            "%s; install it on every node. These rows fail as unsupported_scheme; run again with "
            "--retry-failed unsupported_scheme after the installation",
            advice,
        )

    def is_busy(self) -> bool:
        """Return whether a thread is making an attempt, in which a library behind fsspec may hang."""
        return bool(self._trying)

    def fetch(self, uri: str, share: Share, beat: Callable[[], None] = lambda: None) -> bytes:
        """Return the bytes behind a URL, which `share` then has room for.

        beat: is called at the end of each try, whichever: where hosts are slow, the only thing that moves for minutes.
        Raises ImageError where they cannot be had, and StoppedError after `stop`.
        """
        room = min(_FIRST_ROOM, self._max_bytes)

        def fetch_once() -> bytes:
            nonlocal room
            while True:
                share.wait_for(room)
                if self._stopped.is_set():
                    raise StoppedError
                failed: ImageError | None = None
                try:
                    data = self._try(uri, share, beat)
                except NoRoomError:  # the image is large: ask again when there is room for the largest there can be
                    room = self._max_bytes
                except ImageError as error:
                    failed = error.bare()  # a body that was half read must not outlive its share, during the wait
                else:
                    share.wait_for(len(data))
                    return data
                share.wait_for(0)
                if failed is not None:
                    raise failed

        return Retrying(
            retry=retry_if_exception(self._may_pass),
            stop=stop_after_attempt(self._settings.retries + 1),
            wait=lambda state: max(backoff(uri, state.attempt_number - 1, self._settings), _asked_for(state)),
            before_sleep=self._pause_busy_host,
            sleep=self._sleep,
            reraise=True,
        )(fetch_once)

    def read(self, uri: str, beat: Callable[[], None] = lambda: None) -> bytes:
        """Return the bytes behind a uri of any kind, synchronously; `beat` and errors as in `fetch`."""
        if is_local(uri):
            return read_file(uri, self._max_bytes, self._reader)
        return self.fetch(uri, MemoryBudget(self._max_bytes + 1).open(0), beat)

    def ahead(
        self,
        rows: Iterable[tuple[int, ImageRecord]],
        decode: Callable[[tuple[int, ImageRecord], Callable[[], bytes]], Result],
        decoders: Executor,
        *,
        window: int,
        beat: Callable[[], None],
    ) -> ReadAhead[tuple[int, ImageRecord], Result]:
        """Start fetching and decoding a shard's rows ahead of use, with at most `window` decoded rows."""
        return ReadAhead(
            rows,
            fetch=lambda item, share: self.fetch(item[1].uri, share, beat),
            is_remote=lambda item: not is_local(item[1].uri),
            read=lambda item: self.read(item[1].uri, beat),
            decode=decode,
            decoders=decoders,
            decoded_ahead=window,
            fetch_threads=self._settings.fetch_threads,
            fetched_ahead=self._settings.fetch_ahead,
            fetched_bytes=self._settings.fetch_memory,
        )

    def _try(self, uri: str, share: Share, beat: Callable[[], None]) -> bytes:
        self._trying.add(threading.get_ident())
        try:
            return self._get(uri, share)
        finally:
            self._trying.discard(threading.get_ident())
            beat()

    def _get(self, uri: str, share: Share) -> bytes:
        named = protocols(uri)
        if named in (("http",), ("https",)):
            return self._http.get(uri, max_bytes=self._max_bytes, make_room=share.grow)
        any_host = not ANY_HOST.isdisjoint(named)
        if any_host and not self._settings.allow_private_addresses:
            raise ImageError("private_address", "neither http nor an object store, so its address cannot be checked")
        limits = self._http.hosts if any_host else self._stores
        with limits.turn(host_or_bucket(uri)):
            return fsspec_get(
                uri,
                reader=self._reader,
                max_bytes=self._max_bytes,
                timeout=self._settings.fetch_timeout,
                make_room=share.grow,
            )

    def _sleep(self, seconds: float) -> None:
        self._stopped.wait(seconds)

    def _may_pass(self, error: BaseException) -> bool:
        """Return whether another attempt may succeed."""
        too_long = isinstance(error, BusyError) and error.seconds > self._settings.max_backoff
        return isinstance(error, ImageError) and is_transient(error.reason) and not too_long

    def _pause_busy_host(self, state: RetryCallState) -> None:
        if isinstance(busy := _error_of(state), BusyError):
            self._http.hosts.pause(busy.host, busy.seconds)


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None


def _asked_for(state: RetryCallState) -> float:
    """Return the wait in seconds that a busy host requests."""
    busy = _error_of(state)
    return busy.seconds if isinstance(busy, BusyError) else 0.0


def host_or_bucket(uri: str) -> str:
    """Return what a URL of fsspec's names first, in lower case: of a chain, the last URL; "" where it names nothing."""
    _, _, path = uri.rpartition("::")[2].partition("://")
    return path.partition("/")[0].rpartition("@")[2].partition(":")[0].lower()


def backoff(uri: str, tries: int, settings: FetchSettings) -> float:
    """Return the seconds to wait after a number of failed tries beyond the first: doubled each time, then scattered.

    Half of it is scattered by the uri, so that rows which failed together do not come back together.
    """
    digest = hashlib.blake2b(f"{tries} {uri}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    scatter = int.from_bytes(digest, "big") / 2**64
    return min(settings.backoff * 2.0**tries, settings.max_backoff) * (0.5 + 0.5 * scatter)
