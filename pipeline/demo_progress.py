"""Estimate the remaining time of a demo from the measured durations of its stages."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence


def remaining_seconds(
    shares: Mapping[str, float], finished: Mapping[str, float], stages: Sequence[str], scenes_factor: float
) -> float:
    """Estimate the time of the unfinished stages.

    Args:
        shares: Reference duration of each stage in seconds.
        finished: Measured duration of each finished stage on this machine, in seconds.
        stages: Names of all stages.
        scenes_factor: Number of scenes of this demo divided by that of the reference measurement.

    Returns:
        Seconds, scaled by the speed of this machine on the finished stages.
    """
    expected = sum(shares[stage] for stage in stages if stage in finished) * scenes_factor
    speed = sum(finished[stage] for stage in stages if stage in finished) / expected if expected else 1.0
    return speed * scenes_factor * sum(shares[stage] for stage in stages if stage not in finished)


def clock(seconds: float) -> str:
    """Format a duration as M:SS or H:MM:SS."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Stopwatch:
    """Measure the seconds since its creation."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """Elapsed seconds."""
        return time.monotonic() - self._begun
