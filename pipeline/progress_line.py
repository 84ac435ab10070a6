"""A line that is shown again and again: in place on a terminal, now and then in a log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

SECONDS_BETWEEN_LOG_LINES = 30.0


class ProgressLine:
    """Shows lines and knows how long it has been doing so."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started = time.monotonic()
        self._last = self._started
        self.in_place = stream.isatty()

    @property
    def seconds(self) -> float:
        """The time since the start."""
        return time.monotonic() - self._started

    def show(self, line: Callable[[], str]) -> None:
        """Show the line that `line` makes; a log gets one only every so often."""
        now = time.monotonic()
        if self.in_place:
            self._stream.write("\r" + line() + "\033[K")
            self._stream.flush()
        elif now - self._last >= SECONDS_BETWEEN_LOG_LINES:
            print(line(), file=self._stream, flush=True)
            self._last = now

    def close(self, line: str) -> None:
        """Show the line for the last time and leave it standing."""
        lead, end = ("\r", "\033[K\n") if self.in_place else ("", "\n")
        self._stream.write(lead + line + end)
        self._stream.flush()
