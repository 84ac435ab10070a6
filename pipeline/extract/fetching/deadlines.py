"""Time limits that hold regardless of the server's behaviour.

A socket's own timeout restarts with each byte, so a server that drips holds a thread for hours. Here one thread
watches all exchanges and shuts down the connection of the one whose time is over: its reader wakes up at once, be it
in a TLS handshake, in a header or in the body.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

_current = threading.local()


class KillSwitch:
    """Shuts a connection down from another thread. A second handle on it, for TLS takes the first away."""

    def __init__(self, connection: socket.socket) -> None:
        self._handle = connection.dup()
        self._lock = threading.Lock()  # else another connection could get the handle's number in between

    def cut(self) -> None:
        """Shut the connection down."""
        with self._lock, contextlib.suppress(OSError):
            self._handle.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Release the connection."""
        with self._lock:
            self._handle.close()


class Exchange:
    """One request and its answer, with the time by which it must be over."""

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.over = False
        """Whether it was cut off."""
        self._switch: KillSwitch | None = None
        self._owned: list[KillSwitch] = []

    def remaining(self) -> float:
        """Return the remaining seconds, above 0; raise TimeoutError after the deadline."""
        left = self.deadline - time.monotonic()
        if self.over or left <= 0:
            raise TimeoutError
        return left

    def attach(self, switch: KillSwitch) -> None:
        """Name the connection that the exchange uses from now on."""
        self._switch = switch
        if self.over:
            switch.cut()

    def own(self, switch: KillSwitch) -> None:
        """Close a switch when the exchange ends: its connection is given up, but the answer may yet be read from it."""
        self._owned.append(switch)

    def close(self) -> None:
        """Release the connections that were given up."""
        for switch in self._owned:
            switch.close()

    def cut(self) -> None:
        """End it."""
        self.over = True
        if self._switch is not None:
            self._switch.cut()


def current_exchange() -> Exchange | None:
    """Return the current exchange of this thread."""
    return getattr(_current, "exchange", None)


class Deadlines:
    """Ends exchanges in time."""

    def __init__(self) -> None:
        self._running: set[Exchange] = set()
        self._changed = threading.Condition()
        self._watcher: threading.Thread | None = None
        self._stopped = False

    @contextlib.contextmanager
    def limit(self, seconds: float) -> Iterator[Exchange]:
        """Limit the exchanges of this thread to `seconds`; later use of a connection fails."""
        exchange = Exchange(time.monotonic() + seconds)
        with self._changed:
            exchange.over = self._stopped
            self._running.add(exchange)
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="deadlines", daemon=True)
                self._watcher.start()
            self._changed.notify()
        _current.exchange = exchange
        try:
            yield exchange
        finally:
            _current.exchange = None
            with self._changed:
                self._running.discard(exchange)
            exchange.close()

    def stop(self) -> None:
        """End all current and future exchanges."""
        with self._changed:
            self._stopped = True
            for exchange in self._running:
                exchange.cut()
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._stopped:
                now = time.monotonic()
                waits = [exchange.deadline - now for exchange in self._running if not exchange.over]
                self._changed.wait(max(0.0, min(waits)) if waits else None)
                now = time.monotonic()
                for exchange in self._running:
                    if not exchange.over and exchange.deadline <= now:
                        exchange.cut()
