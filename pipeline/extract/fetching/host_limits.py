"""Rate limits per host: concurrent requests, delay between requests, and requested pauses."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from vilbert.pipeline.errors import StoppedError

_REMEMBERED = 4096
"""Number of hosts to remember before idle ones are dropped."""


@dataclass(slots=True)
class _Host:
    active: int = 0
    not_before: float = 0.0
    queue: deque[threading.Condition] = field(default_factory=deque)

    def call_next(self) -> None:
        """Wake the first waiting thread only: a hundred threads may wait for one host."""
        if self.queue:
            self.queue[0].notify()


class HostLimits:
    """Limits requests per host, first come, first served."""

    def __init__(self, *, per_host: int, delay: float) -> None:
        self._per_host = per_host
        self._delay = delay
        self._hosts: dict[str, _Host] = {}
        self._lock = threading.Lock()
        self._stopped = False

    @contextlib.contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """Wait for a turn to talk to a host, and hold it; raise StoppedError after `stop`."""
        ticket = threading.Condition(self._lock)
        with self._lock:
            host = self._host(name)
            host.queue.append(ticket)
            try:
                self._wait(host, ticket)
                host.active += 1
                host.not_before = max(host.not_before, time.monotonic() + self._delay)
            finally:
                host.queue.remove(ticket)
                host.call_next()
        try:
            yield
        finally:
            with self._lock:
                host.active -= 1
                host.call_next()

    def pause(self, name: str, seconds: float) -> None:
        """Start no request to a host for `seconds`, because it requested a pause."""
        with self._lock:
            host = self._host(name)
            host.not_before = max(host.not_before, time.monotonic() + seconds)

    def stop(self) -> None:
        """Raise StoppedError in all waiting threads."""
        with self._lock:
            self._stopped = True
            for host in self._hosts.values():
                host.call_next()

    def _wait(self, host: _Host, ticket: threading.Condition) -> None:
        while not self._stopped:
            pause = host.not_before - time.monotonic()
            first = host.queue[0] is ticket
            if first and host.active < self._per_host and pause <= 0:
                return
            ticket.wait(pause if first and pause > 0 else None)
        raise StoppedError

    def _host(self, name: str) -> _Host:
        if name not in self._hosts and len(self._hosts) >= _REMEMBERED:  # millions of hosts are met once each
            now = time.monotonic()
            busy = {
                key: host for key, host in self._hosts.items() if host.active or host.queue or host.not_before > now
            }
            self._hosts = busy
        return self._hosts.setdefault(name, _Host())
