"""Watchdog for stalled workers: clocks, one a worker and one a shard in detection, of the time without progress."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import NamedTuple

MOST_SECONDS_A_TICK = 5.0


class Pulse(NamedTuple):
    """A worker's signs of life: it moves while they change."""

    rows: int
    """Rows done of its unfinished shards."""
    beats: int
    """Events of its journals and tries to fetch, so far."""
    shards: Mapping[int, int] = {}
    """The same of each shard that has the detector now; those that wait for it may well stand still."""


class StallWatch:
    """Counts, by worker, the seconds since its pulse changed, or that of one of its shards that have the detector.

    A tick counts for a few seconds at most: a driver that was itself held up (a suspended laptop, Ctrl-Z) has seen
    nothing meanwhile, and no worker is to blame.
    """

    def __init__(self, seconds: float) -> None:
        """Take the seconds without a change after which a worker is taken to be stuck; 0: never."""
        self._seconds = seconds
        self._time = 0.0
        self._last_tick: float | None = None
        self._seen: dict[Hashable, dict[int | None, tuple[Hashable, float]]] = {}

    def tick(self, now: float) -> None:
        """Let time pass. now: seconds of a clock that never goes back."""
        if self._last_tick is not None:
            self._time += min(now - self._last_tick, MOST_SECONDS_A_TICK)
        self._last_tick = now

    def is_stuck(self, worker: Hashable, pulse: Pulse) -> bool:
        """Take in a busy worker's pulse and say whether it has stood still for too long."""
        signs: list[tuple[int | None, Hashable]] = [(None, pulse[:2]), *pulse.shards.items()]
        before = self._seen.get(worker, {})
        fresh = {name: (sign, self._time) for name, sign in signs}
        same = {name: old for name, old in before.items() if name in fresh and old[0] == fresh[name][0]}
        seen = fresh | same
        self._seen[worker] = seen
        return any(0 < self._seconds <= self._time - since for _, since in seen.values())

    def forget(self, worker: Hashable) -> None:
        """Drop an idle or lost worker."""
        self._seen.pop(worker, None)
