"""Fetch and decode the rows of one shard ahead of the detector, in the order of rows, independent of timing.

Three groups of threads hand rows on: many that wait for servers, as many as cores that decode, and the one that has the
detector. Rows of local files skip the first. Ahead are at most a number of fetched rows, a number of fetched bytes, and
a smaller number of decoded images.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, Self, TypeVar

from vilbert.extractors.decode import ImageError
from vilbert.pipeline.errors import StoppedError
from vilbert.pipeline.extract.fetching.memory_budget import MemoryBudget, Share

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(eq=False, slots=True)
class _Row(Generic[Item]):
    """A row that is being fetched or decoded."""

    item: Item
    share: Share | None = None
    """None if nothing is fetched."""
    fetched: bool = True
    data: bytes = b""
    error: BaseException | None = None

    def take(self) -> bytes:
        """Return the fetched bytes, or raise the error of fetching."""
        if self.error is not None:
            raise self.error
        return self.data


class ReadAhead(Generic[Item, Result]):
    """An iterator over the decoded rows. It starts at once; close it if it is not exhausted."""

    def __init__(
        self,
        items: Iterable[Item],
        *,
        fetch: Callable[[Item, Share], bytes],
        is_remote: Callable[[Item], bool],
        read: Callable[[Item], bytes],
        decode: Callable[[Item, Callable[[], bytes]], Result],
        decoders: Executor,
        decoded_ahead: int,
        fetch_threads: int,
        fetched_ahead: int,
        fetched_bytes: int,
    ) -> None:
        """Take items in their order.

        read: of an item that is not remote, called where it is decoded. decode: called with an item and a function that
        gives its bytes, or raises.
        """
        self._items = iter(items)
        self._fetch = fetch
        self._is_remote = is_remote
        self._read = read
        self._decode = decode
        self._decoders = decoders
        self._decoded_ahead = decoded_ahead
        self._fetched_ahead = fetched_ahead
        self._budget = MemoryBudget(fetched_bytes)
        self._fetchers = ThreadPoolExecutor(fetch_threads, thread_name_prefix="fetch")
        self._number = 0
        self._fetching: deque[_Row[Item]] = deque()
        self._decoding: deque[Future[Result]] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._closed = False
        with self._changed:
            self._advance()

    def _advance(self) -> None:
        """Start all possible work. The caller holds the lock. Raises StoppedError if the decoders are shut down."""
        self._begin_fetches()
        while self._fetching and self._fetching[0].fetched and len(self._decoding) < self._decoded_ahead:
            try:
                self._decoding.append(self._decoders.submit(self._decode_row, self._fetching.popleft()))
            except RuntimeError:
                raise StoppedError from None
            self._begin_fetches()
        self._changed.notify_all()

    def _begin_fetches(self) -> None:
        while len(self._fetching) < self._fetched_ahead and not self._closed:
            try:
                item = next(self._items)
            except StopIteration:
                return
            row = _Row(item)
            self._fetching.append(row)
            if self._is_remote(item):
                row.fetched = False
                row.share = self._budget.open(self._number)
                self._fetchers.submit(self._fetch_row, row, row.share)
            self._number += 1

    def _fetch_row(self, row: _Row[Item], share: Share) -> None:
        try:
            row.data = self._fetch(row.item, share)
        except ImageError as error:
            row.error = error.bare()  # it waits for its row, and its frames would keep half of the image
        except BaseException as error:  # it is raised where the row is used
            row.error = error
        with self._changed:
            row.fetched = True
            try:
                if not self._closed:
                    self._advance()
            except BaseException as error:  # it is raised where the next row is asked for
                self._error = error
                self._changed.notify_all()

    def _decode_row(self, row: _Row[Item]) -> Result:
        try:
            return self._decode(row.item, partial(self._read, row.item) if row.share is None else row.take)
        finally:
            row.data = b""
            if row.share is not None:
                row.share.close()

    def __iter__(self) -> Iterator[Result]:
        return self

    def __next__(self) -> Result:
        with self._changed:
            while not self._decoding and self._fetching and self._error is None:
                self._changed.wait()
            if self._error is not None:
                raise self._error
            if not self._decoding:
                raise StopIteration
            first = self._decoding[0]
        try:
            result = first.result()
        except CancelledError:
            raise StoppedError from None
        with self._changed:
            self._decoding.popleft()
            self._advance()
        return result

    def close(self) -> None:
        """Start no more work; work in progress finishes and is dropped."""
        with self._changed:
            self._closed = True
            self._fetching.clear()
            for future in self._decoding:
                future.cancel()
            self._decoding.clear()
            self._changed.notify_all()
        self._budget.cancel()
        self._fetchers.shutdown(wait=False, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
