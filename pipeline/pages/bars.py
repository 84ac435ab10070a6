"""Bar charts of counts. The template `charts.html` draws them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """One bar."""

    label: str
    count: int
    url: str | None = None
    """Where a click leads; None: nowhere."""


@dataclass(frozen=True)
class Chart:
    """Bars that are compared with each other."""

    title: str
    bars: tuple[Bar, ...]
    note: str = ""
    """A sentence below the title."""

    @property
    def highest(self) -> int:
        """Return the count of the longest bar, at least 1."""
        return max((bar.count for bar in self.bars), default=1) or 1
