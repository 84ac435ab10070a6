"""One line that says how a training run is going."""

from __future__ import annotations

import sys
from typing import TextIO

from tqdm import tqdm

from pipeline.progress_line import ProgressLine


class TrainProgress:
    """Reports steps of a total, loss, samples/s, the share of time that training waits for data, and what is left."""

    def __init__(
        self,
        total_steps: int,
        first_step: int,
        batch_size: int,
        stream: TextIO | None = None,
        *,
        stage: str = "pretrain",
    ) -> None:
        """Start at `first_step` steps done, in earlier starts of the run.

        batch_size: samples a step, of all ranks. stream: by default stderr. stage: what the
        line begins with.
        """
        self._stage = stage
        self._total = total_steps
        self._first = first_step
        self._batch_size = batch_size
        self._step, self._loss, self._waiting = first_step, float("nan"), 0.0
        self._shown = ProgressLine(sys.stderr if stream is None else stream)

    def show(self, step: int, loss: float, waiting: float) -> None:
        """Show that `step` steps are done; waiting: the share, 0 to 1, of the time spent waiting for data."""
        self._step, self._loss, self._waiting = step, loss, waiting
        self._shown.show(lambda: self.line(self._shown.seconds))

    def line(self, seconds: float) -> str:
        """Return the line `seconds` after the start: steps of earlier starts count as done, but not in the rate."""
        taken = self._step - self._first
        rate = taken / seconds if seconds > 0 else 0.0
        left = tqdm.format_interval((self._total - self._step) / rate) if rate > 0 else "?"
        return (
            f"{self._stage}: {self._step}/{self._total} steps ({self._step / max(self._total, 1):.0%}), "
            f"loss {self._loss:.4f}, {rate * self._batch_size:.1f} samples/s, {self._waiting:.0%} waiting for data, "
            f"{tqdm.format_interval(seconds)} gone, {left} left"
        )

    def close(self) -> None:
        """Show the line for the last time and leave it standing."""
        self._shown.close(self.line(self._shown.seconds))
