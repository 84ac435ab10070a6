"""Drawings of a comparison as SVG: histograms and the drift of channels. Colours are the CSS variables of the page."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray

from vilbert.pipeline.pages.curves import FIRST, SECOND, SIZE, STYLE, svg_element
from vilbert.pipeline.rebuild.compare.statistics import BINS_PER_DECADE, LOWEST, LogHistogram, Moments

MAX_POINTS = 1024
"""Maximum number of channels that are drawn; of more, every n-th."""


def histogram_svg(histogram: LogHistogram, title: str, unit: str, bound: float | None = None) -> str:
    """Return a histogram over powers of ten; smaller values have a separate bar at the left.

    bound: drawn as a line; None for no line.
    """
    counts = histogram.counts
    total = int(counts.sum())
    if not total:
        return ""
    shares = np.array([int(counts[0]), *_decade_halves(counts[1:])]) / total
    last = max(int(np.flatnonzero(shares)[-1]), 8)
    # Two bars a decade, each beginning at its power of ten; the bar of what is below lies apart at the left.
    starts = np.array([LOWEST - 1.25, *(LOWEST + np.arange(last) / 2)])
    with mpl.rc_context(STYLE):
        drawing, axes = _axes(title, unit)
        axes.bar(starts, shares[: last + 1], width=0.45, align="edge", color=FIRST)
        axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.set_ylim(0, 1)
        decades = range(LOWEST, LOWEST + last // 2 + 1, 2)
        axes.set_xticks([LOWEST - 1.025, *decades], ["0", *(f"$10^{{{decade}}}$" for decade in decades)])
        if bound is not None and 0 < bound <= 10.0 ** (LOWEST + last / 2):
            axes.axvline(np.log10(bound), color=SECOND, linestyle="--")
        return svg_element(drawing, title)


def _decade_halves(counts: NDArray[np.int64]) -> list[int]:
    half = BINS_PER_DECADE // 2
    return [int(counts[at : at + half].sum()) for at in range(0, len(counts), half)]


def drift_svg(a: Moments, b: Moments, title: str) -> str:
    """Return a plot of each channel's mean in B against A; points on the diagonal are equal."""
    if not a.count or not b.count or len(a.mean) != len(b.mean):
        return ""
    step = -(-len(a.mean) // MAX_POINTS)
    x, y = a.mean[::step], b.mean[::step]
    with mpl.rc_context(STYLE):
        drawing, axes = _axes(title, "mean in A; upwards the mean in B")
        axes.axline((float(x.mean()), float(x.mean())), slope=1, color=SECOND, linestyle="--")
        axes.plot(x, y, linestyle="none", marker="o", markersize=3, alpha=0.55, color=FIRST, markeredgewidth=0)
        return svg_element(drawing, title)


def _axes(title: str, unit: str) -> tuple[Figure, Axes]:
    drawing = Figure(figsize=SIZE, layout="constrained")
    drawing.patch.set_alpha(0)
    axes = drawing.add_subplot()
    axes.patch.set_alpha(0)
    axes.set_title(title)
    axes.set_xlabel(unit)
    return drawing, axes
