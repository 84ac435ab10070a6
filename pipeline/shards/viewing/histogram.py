"""Histograms as text: counted numbers grouped into ranges, and rows of bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

BAR_WIDTH = 40
"""Characters of the longest bar."""
_STEPS = (1, 2, 5)
"""Ranges are as wide as one of these, times a power of ten."""


def mean(counts: Mapping[int, int]) -> float:
    """Return the mean of counted numbers; 0 for none."""
    total = sum(counts.values())
    return sum(number * count for number, count in counts.items()) / total if total else 0.0


def group_counts(counts: Mapping[int, int], max_rows: int = 12) -> list[tuple[str, int]]:
    """Return (label, count) of ranges of one round width over the counted numbers, `max_rows` of them at most."""
    if not counts:
        return []
    lowest, highest = min(counts), max(counts)
    power, step = 1, 0
    while (highest // (width := _STEPS[step] * power)) - (lowest // width) >= max_rows:
        step += 1
        if step == len(_STEPS):
            power, step = power * 10, 0
    rows = []
    for start in range(lowest // width * width, highest + 1, width):
        label = str(start) if width == 1 else f"{start}-{start + width - 1}"
        rows.append((label, sum(count for number, count in counts.items() if start <= number < start + width)))
    return rows


def bars(rows: Sequence[tuple[str, int]], *, indent: str = "  ") -> list[str]:
    """Return one line a row: label, count, bar. The longest bar is BAR_WIDTH long, and only a zero has none."""
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
