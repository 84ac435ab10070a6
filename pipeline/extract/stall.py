"""Who stands still? A clock for each worker that runs while nothing moves in it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import NamedTuple

MOST_SECONDS_A_TICK = 5.0


class Pulse(NamedTuple):
    """A worker's signs of life: it moves while they change."""

    rows: int
    """Rows done of its unfinished shards."""
    beats: int
    """Events of its journals and tries to fetch, so far."""


class StallWatch:
    """Counts, by worker, the seconds since its pulse changed.

    A tick counts for a few seconds at most: a driver that was itself held up (a suspended laptop, Ctrl-Z) has seen
    nothing meanwhile, and no worker is to blame.
    """

    def __init__(self, seconds: float) -> None:
        """Take the seconds without a change after which a worker is taken to be stuck; 0: never."""
        self._seconds = seconds
        self._time = 0.0
        self._last_tick: float | None = None
        self._seen: dict[Hashable, tuple[Pulse, float]] = {}

    def tick(self, now: float) -> None:
        """Let time pass. now: seconds of a clock that never goes back."""
        if self._last_tick is not None:
            self._time += min(now - self._last_tick, MOST_SECONDS_A_TICK)
        self._last_tick = now

    def is_stuck(self, worker: Hashable, pulse: Pulse) -> bool:
        """Take in a busy worker's pulse and say whether it has stood still for too long."""
        before = self._seen.get(worker)
        if before is None or before[0] != pulse:
            self._seen[worker] = pulse, self._time
            return False
        return 0 < self._seconds <= self._time - before[1]

    def forget(self, worker: Hashable) -> None:
        """Drop a worker that has nothing to do, or is gone."""
        self._seen.pop(worker, None)
