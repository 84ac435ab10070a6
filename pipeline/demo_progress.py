"""Which stage a demo is at, and how long the rest takes, from the measured shares of the stages."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence


def remaining_seconds(
    shares: Mapping[str, float], finished: Mapping[str, float], stages: Sequence[str], scenes_factor: float
) -> float:
    """Return the estimated time of the stages that are not finished.

    Args:
        shares: Seconds of each stage on the machine where they were measured.
        finished: Seconds that finished stages took here.
        stages: All stages.
        scenes_factor: Scenes of this demo, as a share of those of the measurement.

    Returns:
        Seconds. This machine counts as fast as its finished stages were.
    """
    expected = sum(shares[stage] for stage in stages if stage in finished) * scenes_factor
    speed = sum(finished[stage] for stage in stages if stage in finished) / expected if expected else 1.0
    return speed * scenes_factor * sum(shares[stage] for stage in stages if stage not in finished)


def clock(seconds: float) -> str:
    """Return a duration as M:SS or H:MM:SS."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Stopwatch:
    """Seconds since it was made."""

    def __init__(self) -> None:
        self._begun = time.monotonic()

    @property
    def seconds(self) -> float:
        """The time so far."""
        return time.monotonic() - self._begun
