"""Watchdog for stalled workers: measures the time without progress per worker and per shard in detection."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple

MOST_SECONDS_A_TICK = 5.0


class Pulse(NamedTuple):
    """A worker's heartbeat: the worker makes progress while it changes."""

    rows: int
    """Finished rows of its unfinished shards."""
    beats: int
    """Number of events of its journals and of fetches so far."""
    shards: Mapping[int, int] = {}
    """The same for each shard in the detector; shards that wait for the detector need not make progress."""


class StallWatch:
    """Measures, by worker, the seconds since its heartbeat, or that of one of its shards in the detector, changed.

    A tick counts for a few seconds at most: if the driver itself was suspended (a laptop, Ctrl-Z), no worker counts as
    stalled.
    """

    def __init__(self, seconds: float) -> None:
        """Store the seconds without change after which a worker is considered stuck; 0: never."""
        self._seconds = seconds
        self._time = 0.0
        self._last_tick: float | None = None
        self._seen: dict[Hashable, dict[int | None, tuple[Hashable, float]]] = {}

    def tick(self, now: float) -> None:
        """Advance the time. now: seconds of a monotonic clock."""
        if self._last_tick is not None:
            self._time += min(now - self._last_tick, MOST_SECONDS_A_TICK)
        self._last_tick = now

    def is_stuck(self, worker: Hashable, pulse: Pulse) -> bool:
        """Record a busy worker's heartbeat and return whether it has made no progress for too long."""
        signs: list[tuple[int | None, Hashable]] = [(None, pulse[:2]), *pulse.shards.items()]
        before = self._seen.get(worker, {})
        fresh = {name: (sign, self._time) for name, sign in signs}
        same = {name: old for name, old in before.items() if name in fresh and old[0] == fresh[name][0]}
        seen = fresh | same
        self._seen[worker] = seen
        return any(0 < self._seconds <= self._time - since for _, since in seen.values())

    def forget(self, worker: Hashable) -> None:
        """Forget an idle or lost worker."""
        self._seen.pop(worker, None)
