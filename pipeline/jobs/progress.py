"""The progress line of a job."""

from __future__ import annotations

import sys
from typing import TextIO

from tqdm import tqdm

from vilbert.pipeline.progress_line import ProgressLine


class JobProgress:
    """Reports finished images of a total, images/s, failures and the remaining time."""

    def __init__(self, command: str, total: int, already_done: int, stream: TextIO | None = None) -> None:
        self._command = command
        self._total = total
        self._already_done = already_done
        self._shown = ProgressLine(sys.stderr if stream is None else stream)

    def show(self, done: int, failures: int) -> None:
        """Update the line: `done` images, of which `failures` failed."""
        self._shown.show(lambda: self.line(done, failures, self._shown.seconds))

    def line(self, done: int, failures: int, seconds: float) -> str:
        """Return the line. Images of earlier runs count towards the total, but not towards the rate."""
        meter: str = tqdm.format_meter(
            done,
            self._total,
            seconds,
            unit="img",
            initial=self._already_done,
            prefix=self._command,
            postfix=f"failed {failures}",
            ncols=100,
            ascii=not self._shown.in_place,
        )
        return meter

    def close(self, done: int, failures: int) -> None:
        """Show the final line."""
        self._shown.close(self.line(done, failures, self._shown.seconds))
