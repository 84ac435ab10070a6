"""A progress line: updated in place on a terminal, printed periodically to a log."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TextIO

SECONDS_BETWEEN_LOG_LINES = 30.0


class ProgressLine:
    """Shows a progress line and measures the elapsed time."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._started = time.monotonic()
        self._last = self._started
        self.in_place = stream.isatty()

    @property
    def seconds(self) -> float:
        """Elapsed seconds."""
        return time.monotonic() - self._started

    def show(self, line: Callable[[], str]) -> None:
        """Show the line that `line` returns; on a stream that is not a terminal, at most once per interval."""
        now = time.monotonic()
        if self.in_place:
            self._stream.write("\r" + line() + "\033[K")
            self._stream.flush()
        elif now - self._last >= SECONDS_BETWEEN_LOG_LINES:
            print(line(), file=self._stream, flush=True)
            self._last = now

    def close(self, line: str) -> None:
        """Show the final line and move to the next one."""
        lead, end = ("\r", "\033[K\n") if self.in_place else ("", "\n")
        self._stream.write(lead + line + end)
        self._stream.flush()
