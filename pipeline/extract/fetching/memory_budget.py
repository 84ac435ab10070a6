"""How much memory the fetched images of a shard take, whatever servers send.

Rows are used in their order. So the first row that is not yet used must never wait for room: later rows hold the room
until it is used. It alone may pass the limit; every other row waits, and holds no connection while it does.
"""

from __future__ import annotations

import threading

from vilbert.pipeline.errors import StoppedError


class NoRoomError(Exception):
    """An image turned out larger than the room there is for it."""

    def __init__(self, size: int) -> None:
        self.size = size
        super().__init__(size)


class MemoryBudget:
    """The bytes that the rows of one shard hold."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._open: dict[int, Share] = {}
        self._waiting: dict[int, threading.Condition] = {}
        self._lock = threading.Lock()
        self._cancelled = False

    def open(self, row: int) -> Share:
        """Return the share of a row, empty as yet; rows come in their order."""
        with self._lock:
            share = self._open[row] = Share(self, row)
            return share

    def cancel(self) -> None:
        """Raise StoppedError in all threads that wait or ask for memory."""
        with self._lock:
            self._cancelled = True
            self._wake_first()

    def resize(self, share: Share, size: int, *, wait: bool) -> bool:
        """Make a share `size` bytes large; return whether it is, which without `wait` it need not be."""
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
        """Give back what a share holds; its row is used."""
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
        """Wake the first row that waits, and no other: a hundred threads may wait."""
        if self._waiting:
            self._waiting[min(self._waiting)].notify()


class Share:
    """What one row holds of a budget."""

    def __init__(self, budget: MemoryBudget, row: int) -> None:
        self._budget = budget
        self.row = row
        self.size = 0
        """Bytes."""

    def wait_for(self, size: int) -> None:
        """Hold `size` bytes, when there is room; raise StoppedError where the shard is given up."""
        self._budget.resize(self, size, wait=True)

    def grow(self, size: int) -> None:
        """Hold at least `size` bytes; raise NoRoomError if there is no room just now."""
        if size > self.size and not self._budget.resize(self, size, wait=False):
            raise NoRoomError(size)

    def close(self) -> None:
        """Hold nothing any more."""
        self._budget.close(self)
