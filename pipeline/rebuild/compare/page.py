"""The report of a comparison: one HTML file that needs no network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.pages.html_page import table
from vilbert.pipeline.pages.templates import render, static_text
from vilbert.pipeline.rebuild.compare.charts import drift_svg, histogram_svg
from vilbert.pipeline.rebuild.compare.document import advice, percent, side_text, summary_rows, verdict_text
from vilbert.pipeline.rebuild.compare.statistics import Totals
from vilbert.pipeline.shards.storage.atomic import write_atomic

TRIALS = 12
"""Maximum number of trials in the list."""
BOUND_TITLES = {
    "matched": "of all regions have a match",
    "equal": "of matched features are equal",
    "objects": "of matched regions have the same object",
}


def write_page(path: Path, document: Mapping[str, Any], totals: Totals, pictures: Sequence[str]) -> None:
    """Write the page. pictures: HTML of the most different images, see `pictures`.

    Raises:
        ShardError: The file cannot be written.
    """
    try:
        write_atomic(path, build_page(document, totals, pictures).encode("utf-8", "backslashreplace"))
    except OSError as error:
        raise ShardError(f"--report {path}: cannot be written ({error.strerror or error})") from error


def build_page(document: Mapping[str, Any], totals: Totals, pictures: Sequence[str]) -> str:
    """Return the HTML page; names and ids are escaped."""
    diagnosis = document["diagnosis"] or {}
    return render(
        "compare.html",
        title=f"Comparison of {_name(document['a'])} and {_name(document['b'])}",
        summary="Two feature sets of the same images, compared region by region.",
        style=static_text("compare.css"),
        sections=[],
        document=document,
        verdict=verdict_text(document),
        sides={side.upper(): side_text(document[side]) for side in "ab"},
        bounds=[{**bound, "title": BOUND_TITLES[bound["name"]]} for bound in document["bounds"]],
        percent=percent,
        advice=list(advice(document)),
        figures=[row for row in summary_rows(document) if row[0] != "bounds"],  # those have a picture of their own
        charts=[Markup(chart) for chart in _charts(document, totals) if chart],  # noqa: S704  # drawn from numbers
        diagnosis=diagnosis,
        trials=_html(table(("how it was run", "cosine", "relative error", "images"), _trials(diagnosis))),
        settings=_html(table(("setting", "A", "B"), _settings(document))),
        pictures=[_html(picture) for picture in pictures],
    )


def _html(text: str) -> Markup:
    """Return HTML that a template or `pictures` made, which escape what they are given."""
    return Markup(text)  # noqa: S704


def _name(side: Mapping[str, Any]) -> str:
    name = str(side["name"]).rstrip("/")
    return name.rpartition("/")[2] or name


def _short(value: object) -> str:
    text = "" if value is None else str(value)
    return text if len(text) <= 120 else f"{text[:119]}…"


def _settings(document: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    return [(name, _short(a), _short(b)) for name, a, b in document["recorded_settings"]]


def _charts(document: Mapping[str, Any], totals: Totals) -> tuple[str, ...]:
    bound = 1 - document["features"]["min_cosine"]
    return (
        histogram_svg(totals.cosine_gaps, "Matched features: 1 - cosine", "1 - cosine", bound),
        histogram_svg(totals.errors, "Matched features: relative error", "|a - b| / |a|"),
        drift_svg(totals.moments_a, totals.moments_b, "Mean of each channel"),
    )


def _trials(diagnosis: Mapping[str, Any]) -> list[tuple[str, float, float, int]]:
    return [
        (trial["label"], round(trial["cosine"], 5), float(f"{trial['error']:.2g}"), trial["images"])
        for trial in diagnosis.get("trials", ())[:TRIALS]
    ]
