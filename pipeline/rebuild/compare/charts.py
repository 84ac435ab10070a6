"""Drawings of a comparison as SVG: histograms and the drift of channels. Colours are the CSS variables of the page."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.rebuild.compare.statistics import BINS_PER_DECADE, LOWEST, LogHistogram, Moments

WIDTH, HEIGHT = 420, 220
LEFT, RIGHT, TOP, BOTTOM = 48, 12, 10, 44
"""Margins of the drawing area, in units of the drawing."""
MAX_POINTS = 2048
"""Channels that are drawn; of more every n-th."""


def histogram_svg(histogram: LogHistogram, title: str, unit: str, bound: float | None = None) -> str:
    """Return a histogram over powers of ten, with what is below the lowest in a bar of its own at the left.

    bound: drawn as a line; None for none.
    """
    counts = histogram.counts
    total = int(counts.sum())
    if not total:
        return ""
    decades = [int(counts[0]), *_decade_halves(counts[1:])]
    shares = np.array(decades) / total
    last = max(int(np.flatnonzero(shares)[-1]), 8)
    shares = shares[: last + 1]
    step = (WIDTH - LEFT - RIGHT) / (len(shares) + 0.5)
    bars, labels = [], []
    for at, share in enumerate(shares.tolist()):
        x = LEFT + (at + (0.5 if at else 0)) * step
        height = share * (HEIGHT - TOP - BOTTOM)
        if share:
            bars.append(
                f'<rect class="bin" x="{x:.1f}" y="{HEIGHT - BOTTOM - height:.1f}" width="{step * 0.9:.1f}" '
                f'height="{max(height, 1):.1f}"><title>{share:.2%}</title></rect>'
            )
        if at and (at - 1) % 4 == 0:
            labels.append(_text(x, HEIGHT - BOTTOM + 16, f"10{_superscript(LOWEST + (at - 1) // 2)}", "middle"))
    labels.append(_text(LEFT, HEIGHT - BOTTOM + 16, "0", "start"))
    line = ""
    if bound is not None and bound > 0:
        x = LEFT + (1.5 + 2 * (np.log10(bound) - LOWEST)) * step
        if x <= WIDTH - RIGHT:
            line = f'<line class="bound" x1="{x:.1f}" x2="{x:.1f}" y1="{TOP}" y2="{HEIGHT - BOTTOM}"/>'
    return _drawing(title, [*_share_axis(), *bars, line, *labels], unit)


def _decade_halves(counts: NDArray[np.int64]) -> list[int]:
    half = BINS_PER_DECADE // 2
    return [int(counts[at : at + half].sum()) for at in range(0, len(counts), half)]


def _superscript(number: int) -> str:
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _share_axis() -> list[str]:
    lines = []
    for share in (0, 0.5, 1):
        y = HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)
        lines.append(f'<line class="rule" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(_text(LEFT - 6, y + 4, f"{share:.0%}", "end"))
    return lines


def drift_svg(a: Moments, b: Moments, title: str) -> str:
    """Return the mean of each channel in B against that in A: a point on the diagonal has not moved."""
    if not a.count or not b.count or len(a.mean) != len(b.mean):
        return ""
    step = -(-len(a.mean) // MAX_POINTS)
    x, y = a.mean[::step], b.mean[::step]
    low, high = float(min(x.min(), y.min())), float(max(x.max(), y.max()))
    span = high - low or 1.0
    across = LEFT + (x - low) / span * (WIDTH - LEFT - RIGHT)
    up = HEIGHT - BOTTOM - (y - low) / span * (HEIGHT - TOP - BOTTOM)
    points = "".join(f"M{px:.1f} {py:.1f}h0" for px, py in zip(across.tolist(), up.tolist(), strict=True))
    parts = [
        f'<line class="rule" x1="{LEFT}" y1="{HEIGHT - BOTTOM}" x2="{WIDTH - RIGHT}" y2="{HEIGHT - BOTTOM}"/>',
        f'<line class="rule" x1="{LEFT}" y1="{TOP}" x2="{LEFT}" y2="{HEIGHT - BOTTOM}"/>',
        f'<line class="bound" x1="{LEFT}" y1="{HEIGHT - BOTTOM}" x2="{WIDTH - RIGHT}" y2="{TOP}"/>',
        f'<path class="points" d="{points}"/>',
        _text(LEFT, HEIGHT - BOTTOM + 16, f"{low:.3g}", "start"),
        _text(WIDTH - RIGHT, HEIGHT - BOTTOM + 16, f"{high:.3g}", "end"),
        _text(LEFT - 6, HEIGHT - BOTTOM, f"{low:.3g}", "end"),
        _text(LEFT - 6, TOP + 8, f"{high:.3g}", "end"),
    ]
    return _drawing(title, parts, "mean in A; upwards the mean in B")


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{text}</text>'


def _drawing(title: str, parts: Sequence[str], unit: str) -> str:
    axis = _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 8, unit, "middle")
    return (
        f'<figure class="chart"><figcaption>{title}</figcaption><svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{title}">{"".join(parts)}{axis}</svg></figure>'
    )
