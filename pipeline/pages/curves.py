"""The curves of a run as small multiples: metrics against steps.

Colours are placeholders that `svg` replaces by CSS variables, so that one drawing is readable on light and on dark.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

POINTS = 600  # of a curve, at most: longer runs are averaged in bins
SMOOTHING_SHARE = 0.03  # of a curve's points that a smoothed point averages
SIZE = (4.0, 2.9)  # inches of a panel: about the width of a phone's page

# What a drawing is coloured with: the colours of the light page, and the variables that a page sets.
INK, GRID, FIRST, SECOND, THIRD, FOURTH = "#1b1f24", "#d0d5db", "#1f6fb5", "#c2571a", "#2e7d4f", "#8a4fa3"
VARIABLES = {INK: "--ink", GRID: "--grid", FIRST: "--first", SECOND: "--second", THIRD: "--third", FOURTH: "--fourth"}

STYLE: Any = {  # matplotlib's type names every key there is
    "svg.fonttype": "none", "font.size": 9, "font.family": "sans-serif",
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.spines.top": False, "axes.spines.right": False, "axes.linewidth": 0.8, "axes.grid": True,
    "grid.color": GRID, "grid.linewidth": 0.6, "axes.axisbelow": True, "axes.titlesize": 10, "axes.titleweight": "bold",
    "axes.titlelocation": "left", "legend.frameon": False, "legend.fontsize": 8, "lines.linewidth": 1.5,
    "axes.formatter.useoffset": False, "axes.formatter.limits": (-3, 5),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Panel:
    """One small chart."""

    title: str
    """Says what is shown."""
    unit: str
    """The label of the vertical axis."""
    series: tuple[tuple[str, str, str], ...]
    """Curves: kind of entry, name of the value, label."""
    smooth: bool = True
    """Draw training values lightly, and a moving average over them."""
    log_from: float = math.inf
    """The vertical axis is logarithmic where the greatest value is at least so many times the least."""
    share: bool = False
    """The vertical axis goes from 0 to 1."""


def _loss(title: str, name: str, unit: str) -> Panel:
    return Panel(title=title, unit=unit, series=(("train", name, "training"), ("eval", name, "held out")), log_from=10)


LEARNING_PANELS = (
    _loss("Total loss", "loss", "sum of the parts"),
    _loss("Masked words", "masked_lm_loss", "cross-entropy a word, nats"),
    _loss("Masked regions", "masked_image_loss", "loss a region"),
    _loss("Alignment", "alignment_loss", "cross-entropy a pair, nats"),
    Panel(
        title="Held-out accuracy",
        unit="share right",
        series=(
            ("eval", "masked_lm_accuracy", "masked words"),
            ("eval", "masked_image_accuracy", "masked regions"),
            ("eval", "alignment_accuracy", "alignment"),
            ("eval", "masked_image_majority", "regions' commonest class"),
        ),
        share=True,
    ),
    Panel(
        title="Held-out accuracy of answers",
        unit="share right",
        series=(
            ("eval", "accuracy", "all"),
            ("eval", "accuracy_yes_no", "yes/no"),
            ("eval", "accuracy_number", "numbers"),
            ("eval", "accuracy_other", "other"),
        ),
        share=True,
    ),
    Panel(
        title="Held-out accuracy of next words",
        unit="share right",
        series=(("eval", "next_word_accuracy", "next words"),),
        share=True,
    ),
)
"""Panels of learning metrics."""

PANELS = (
    *LEARNING_PANELS,
    Panel(
        title="Learning rate",
        unit="largest of the groups",
        series=(("train", "learning_rate", "training"),),
        smooth=False,
    ),
    Panel(title="Gradient norm", unit="before clipping", series=(("train", "gradient_norm", "training"),), log_from=1),
    Panel(title="Speed", unit="samples/s", series=(("train", "samples_per_second", "training"),)),
    Panel(title="Waiting for data", unit="share of time", series=(("train", "waiting", "training"),), share=True),
)


def curve(entries: Sequence[Mapping[str, Any]], kind: str, name: str) -> NDArray[np.float64]:
    """Return the finite values of a name as [2, P]: steps and values, float64; bins' means where P would be large."""
    pairs = [
        (entry["step"], entry[name])
        for entry in entries
        if entry["kind"] == kind and isinstance(entry.get(name), (int, float)) and math.isfinite(entry[name])
    ]
    points = np.array(pairs, np.float64).reshape(-1, 2).T
    if points.shape[1] <= POINTS:
        return points
    return np.stack([part.mean(axis=1) for part in np.array_split(points, POINTS, axis=1)], axis=1)


def smoothed(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the mean over each value's neighbours, [P] float64; the window is cut at the ends."""
    reach = int(len(values) * SMOOTHING_SHARE / 2)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    before = np.minimum(reach, at)
    # No further ahead than back, or a curve that falls steeply at the start would be drawn too low there.
    after = np.minimum(before, len(values) - 1 - at)
    means: NDArray[np.float64] = (sums[at + after + 1] - sums[at - before]) / (before + after + 1)
    return means


def measured(entries: Sequence[Mapping[str, Any]], panels: Sequence[Panel] = PANELS) -> list[Panel]:
    """Return the panels that the entries have a value of."""
    return [panel for panel in panels if any(curve(entries, kind, name).size for kind, name, _ in panel.series)]


def figure(entries: Sequence[Mapping[str, Any]], panel: Panel) -> Figure:
    """Return the drawing of one panel that the entries have a value of."""
    with mpl.rc_context(STYLE):
        drawing = Figure(figsize=SIZE, layout="constrained")
        drawing.patch.set_alpha(0)
        _draw(drawing.add_subplot(), panel, entries)
    return drawing


def svg(entries: Sequence[Mapping[str, Any]], panels: Sequence[Panel] = PANELS) -> str:
    """Return an <svg> element for each panel that has values, so that a page can wrap them; the same each time.

    Colours are the CSS variables of VARIABLES.
    """
    return "\n".join(svg_element(figure(entries, panel), panel.title) for panel in measured(entries, panels))


def svg_element(drawing: Figure, title: str) -> str:
    """Return a drawing in the colours of VARIABLES as an <svg> element, whose colours are then CSS variables."""
    written = io.StringIO()
    # The salt keeps ids of two drawings on one page apart.
    with mpl.rc_context({**STYLE, "svg.hashsalt": f"vilbert {title}"}):
        drawing.savefig(written, format="svg", metadata={"Date": None, "Creator": None})
    text = re.sub(r'<g id="[^"]*"', "<g", written.getvalue())  # names of parts, which every drawing has
    for colour, variable in VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    label = f'<svg role="img" aria-label="{escape(title)}"'
    return text[text.index("<svg") :].replace("<svg", label, 1)


def _draw(axes: Axes, panel: Panel, entries: Sequence[Mapping[str, Any]]) -> None:
    axes.patch.set_alpha(0)
    axes.set_title(panel.title)
    axes.set_xlabel("step")
    axes.set_ylabel(panel.unit)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    drawn = 0
    for colour, (kind, name, label) in zip((FIRST, SECOND, THIRD, FOURTH), panel.series, strict=False):
        steps, values = curve(entries, kind, name)
        if not len(steps):
            continue
        drawn += 1
        if kind == "train" and panel.smooth:
            axes.plot(steps, values, color=colour, alpha=0.3, linewidth=0.8)
            values = smoothed(values)
        few = kind == "eval" or len(steps) == 1
        axes.plot(steps, values, color=colour, label=label, marker="o" if few else None, markersize=3.5)
    if panel.share:
        axes.set_ylim(-0.03, 1.03)
    every = np.concatenate([curve(entries, kind, name)[1] for kind, name, _ in panel.series])
    if every.min() > 0 and every.max() >= panel.log_from * every.min():
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    if drawn > 2:  # no room among so many curves
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, columnspacing=1)
    elif drawn == 2:
        axes.legend(loc="best")
