"""Limit the memory of a shard's fetched images, regardless of what servers send.

Rows are used in order, so the first unused row must never wait for memory that later rows hold until it is used. It
alone may exceed the limit; every other row waits, and holds no connection while it waits.
"""

from __future__ import annotations

import threading

from vilbert.pipeline.errors import StoppedError


class NoRoomError(Exception):
    """An image is larger than the available memory."""

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(size)


class MemoryBudget:
    """The memory budget of the rows of one shard, in bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._open: dict[int, Share] = {}
        self._waiting: dict[int, threading.Condition] = {}
        self._lock = threading.Lock()
        self._cancelled = False

    def open(self, row: int) -> Share:
        """Return the empty share of a row; rows must come in order."""
        with self._lock:
            share = self._open[row] = Share(self, row)
            return share

    def cancel(self) -> None:
        """Raise StoppedError in all threads that wait or ask for memory."""
        with self._lock:
            self._cancelled = True
            self._wake_first()

    def resize(self, share: Share, size: int, *, wait: bool) -> bool:
        """Set the size of a share in bytes; return whether it succeeded, which without `wait` it may not."""
        with self._lock:
            try:
                while not self._fits(share, size):
                    if not wait:
                        return False
                    self._waiting.setdefault(share.row, threading.Condition(self._lock)).wait()
                self._used += size - share.size
                share.size = size
                return True
            finally:
                self._waiting.pop(share.row, None)
                self._wake_first()

    def close(self, share: Share) -> None:
        """Release a share after its row was used."""
        with self._lock:
            self._used -= share.size
            share.size = 0
            self._open.pop(share.row, None)
            self._wake_first()

    def _fits(self, share: Share, size: int) -> bool:
        if self._cancelled:
            raise StoppedError
        is_first = share.row == next(iter(self._open), None)
        return size <= share.size or self._used + size - share.size <= self._limit or is_first

    def _wake_first(self) -> None:
        """Wake only the first waiting row: a hundred threads may wait."""
        if self._waiting:
            self._waiting[min(self._waiting)].notify()


class Share:
    """The part of a budget that one row holds."""

    def __init__(self, budget: MemoryBudget, row: int) -> None:
        self._budget = budget
        self.row = row
        self.size = 0
        """Bytes."""

    def wait_for(self, size: int) -> None:
        """Wait until `size` bytes are available and hold them; raise StoppedError if the shard is abandoned."""
        self._budget.resize(self, size, wait=True)

    def grow(self, size: int) -> None:
        """Hold at least `size` bytes; raise NoRoomError if they are not available now."""
        if size > self.size and not self._budget.resize(self, size, wait=False):
            raise NoRoomError(size)

    def close(self) -> None:
        """Release the memory."""
        self._budget.close(self)
