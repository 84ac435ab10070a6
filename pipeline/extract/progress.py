"""One line that says how a run is going: in place on a terminal, now and then in a log."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from tqdm import tqdm

SECONDS_BETWEEN_LOG_LINES = 30.0


class ProgressLine:
    """Reports images done of a total, images/s, failures and the time that is left."""

    def __init__(self, total: int, already_done: int, stream: TextIO = sys.stderr) -> None:
        self._total = total
        self._already_done = already_done
        self._stream = stream
        self._started = time.monotonic()
        self._last = self._started if not stream.isatty() else float("-inf")

    def show(self, done: int, failures: int) -> None:
        """Show `done` images of the total, `failures` of them failed; a log gets a line only every so often."""
        now = time.monotonic()
        if self._stream.isatty():
            self._stream.write("\r" + self.line(done, failures, now - self._started) + "\033[K")
            self._stream.flush()
        elif now - self._last >= SECONDS_BETWEEN_LOG_LINES:
            print(self.line(done, failures, now - self._started), file=self._stream, flush=True)
            self._last = now

    def line(self, done: int, failures: int, seconds: float) -> str:
        """Return the line: what earlier runs did counts towards the total, but not towards the rate."""
        meter: str = tqdm.format_meter(
            done,
            self._total,
            seconds,
            unit="img",
            initial=self._already_done,
            prefix="extract",
            postfix=f"failed {failures}",
            ncols=100,
            ascii=not self._stream.isatty(),
        )
        return meter

    def close(self, done: int, failures: int) -> None:
        """Show the line for the last time and leave it standing."""
        lead, end = ("\r", "\033[K\n") if self._stream.isatty() else ("", "\n")
        self._stream.write(lead + self.line(done, failures, time.monotonic() - self._started) + end)
        self._stream.flush()
