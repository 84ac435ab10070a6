"""Histograms as text: counted numbers grouped into ranges, and rows of bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

BAR_WIDTH = 40
"""Length of the longest bar, in characters."""
_STEPS = (1, 2, 5)
"""Widths of ranges are one of these times a power of ten."""


def mean(counts: Mapping[int, int]) -> float:
    """Return the mean of counted numbers; 0 for none."""
    total = sum(counts.values())
    return sum(number * count for number, count in counts.items()) / total if total else 0.0


def group_ranges(counts: Mapping[int, int], max_rows: int = 12) -> list[tuple[int, int, int]]:
    """Return (first, last, count) of at most `max_rows` ranges of one round width over the counted numbers."""
    if not counts:
        return []
    lowest, highest = min(counts), max(counts)
    power, step = 1, 0
    while (highest // (width := _STEPS[step] * power)) - (lowest // width) >= max_rows:
        step += 1
        if step == len(_STEPS):
            power, step = power * 10, 0
    totals: dict[int, int] = {}
    for number, count in counts.items():
        totals[number // width] = totals.get(number // width, 0) + count
    ranges = range(lowest // width, highest // width + 1)
    return [(at * width, (at + 1) * width - 1, totals.get(at, 0)) for at in ranges]


def group_counts(counts: Mapping[int, int], max_rows: int = 12) -> list[tuple[str, int]]:
    """Return (label, count) of the ranges of `group_ranges`."""
    return [(range_label(first, last), count) for first, last, count in group_ranges(counts, max_rows)]


def range_label(first: int, last: int) -> str:
    """Return a range of whole numbers in words."""
    return str(first) if first == last else f"{first}-{last}"


def bars(rows: Sequence[tuple[str, int]], *, indent: str = "  ") -> list[str]:
    """Return one line per row: label, count, bar. The longest bar has BAR_WIDTH characters; only zero has no bar."""
    if not rows:
        return [f"{indent}none"]
    label_width = max(len(label) for label, _ in rows)
    count_width = max(len(f"{count:,}") for _, count in rows)
    highest = max(count for _, count in rows)
    lines = []
    for label, count in rows:
        length = -(-count * BAR_WIDTH // highest) if highest else 0
        lines.append(f"{indent}{label:>{label_width}}  {count:>{count_width},}  {'█' * length}".rstrip())
    return lines
