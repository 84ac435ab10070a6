"""The progress line of a training run."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TextIO

from tqdm import tqdm

from vilbert.pipeline.progress_line import ProgressLine


@dataclass(kw_only=True)
class _Pauses:
    """Evaluations or checkpoints, which the loop makes between steps at an interval and after the last step."""

    name: str
    every: int | None
    """Interval in steps; None for never."""
    seconds: float = 0.0
    count: int = 0

    def note(self, seconds: float | None) -> None:
        """Record a duration in seconds; None is ignored."""
        if seconds is not None:
            self.seconds += seconds
            self.count += 1

    def left(self, step: int, total: int) -> int:
        """Return the number of remaining ones, before that of `step` itself."""
        if self.every is None:
            return 0
        return total // self.every - (step - 1) // self.every + (total % self.every != 0)


class TrainProgress:
    """Reports steps of a total, loss, samples/s, the share of time that training waits for data, and what is left.

    What is left is the time of the whole run: its steps, evaluations and checkpoints, by their mean so far. Where no
    evaluation has been made yet, it is said how many come on top.
    """

    def __init__(
        self,
        total_steps: int,
        first_step: int,
        batch_size: int,
        stream: TextIO | None = None,
        *,
        stage: str = "pretrain",
        eval_every: int | None = None,
        checkpoint_every: int | None = None,
    ) -> None:
        """Start at `first_step` steps done, in earlier starts of the run.

        batch_size: samples a step, of all ranks. stream: by default stderr. stage: what the line begins with.
        eval_every, checkpoint_every: intervals in steps; None for never.
        """
        self._stage = stage
        self._total = total_steps
        self._first = first_step
        self._batch_size = batch_size
        self._step, self._loss, self._waiting = first_step, float("nan"), 0.0
        self._evaluations = _Pauses(name="evaluation", every=eval_every)
        self._checkpoints = _Pauses(name="checkpoint", every=checkpoint_every)
        self._shown = ProgressLine(sys.stderr if stream is None else stream)

    def show(self, step: int, loss: float | None, waiting: float) -> None:
        """Show that `step` steps are done.

        loss: of the step; None where it was not read, and the last one stands. waiting: the share, 0 to 1, of the time
        spent waiting for data.
        """
        self._step, self._waiting = step, waiting
        self._loss = self._loss if loss is None else loss
        self._shown.show(lambda: self.line(self._shown.seconds))

    def note(self, *, evaluation: float | None, checkpoint: float | None) -> None:
        """Record the seconds of the evaluation and the checkpoint after the last step; None is ignored."""
        self._evaluations.note(evaluation)
        self._checkpoints.note(checkpoint)

    def line(self, seconds: float, *, closing: bool = False) -> str:
        """Return the line `seconds` after the start: steps of earlier starts count as done, but not in the rate."""
        taken = self._step - self._first
        rate = taken / seconds if seconds > 0 else 0.0
        left = self._left(seconds, pauses=not closing)
        return (
            f"{self._stage}: {self._step}/{self._total} steps ({self._step / max(self._total, 1):.0%}), "
            f"loss {self._loss:.4f}, {rate * self._batch_size:.1f} samples/s, {self._waiting:.0%} waiting for data, "
            f"{tqdm.format_interval(seconds)} elapsed, {left} remaining"
        )

    def _left(self, seconds: float, *, pauses: bool) -> str:
        """Estimate the duration of the rest of the run."""
        taken = self._step - self._first
        kinds = (self._evaluations, self._checkpoints) if pauses or self._step < self._total else ()
        stepping = seconds - self._evaluations.seconds - self._checkpoints.seconds
        if taken <= 0 or stepping <= 0:
            return "?"
        left = (self._total - self._step) * stepping / taken
        unknown = ""
        for kind in kinds:
            number = kind.left(self._step, self._total)
            if kind.count:
                left += number * kind.seconds / kind.count
            elif number and kind is self._evaluations:
                unknown = f" and {number} {kind.name}{'s' if number > 1 else ''}"
        return f"{tqdm.format_interval(left)}{unknown}"

    def close(self) -> None:
        """Show the final line, if any step was made, and move to the next one."""
        if self._step > self._first:
            self._shown.close(self.line(self._shown.seconds, closing=True))
