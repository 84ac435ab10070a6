"""The page about a fine-tuned model: metrics, errors, correct answers, attention, and how it was trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vilbert.pipeline.pages.html_page import curves_section, html_page, table
from vilbert.pipeline.pages.templates import render, static_text

LEAST_PROBABILITY = 0.005
"""Answers with a lower probability are not listed; they would be shown as 0.00."""
SKIPPED = {"left_out": "items left out", "unread": "items in unreadable shards"}
"""Counts that are shown only if they are not 0, with their names on the page."""
NO_SHARE = ("rank", "cider", "distribution", "loss", "left_out", "unread", "ptb_tokenizer")
"""Suffixes of metrics that are not fractions."""


class Ranked(NamedTuple):
    """An answer of the model and its probability."""

    answer: str
    probability: float
    people: bool = False
    """Whether it is an annotated answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One photograph."""

    uri: str
    """A data URI."""
    caption: str
    people: bool = False
    """Whether it is the true image among several."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One item with its answers."""

    question: tuple[str, ...]
    """The model's text input, sentence by sentence."""
    model: str
    """Its answer."""
    people: tuple[str, ...]
    """Annotated answers, one per line."""
    ranked: tuple[Ranked, ...] = ()
    """The model's answers, most probable first; empty if the task does not rank texts."""
    right: float | None
    """Score from 0 to 1; None if answers are not right or wrong."""
    verdict: str
    """The score in words."""
    blind: str | None = None
    """The model's answer for another image; None if it was not evaluated."""
    blind_verdict: str = ""
    pictures: tuple[Picture, ...] = ()
    """Images that belong to this item only."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Images and the items about them."""

    pictures: tuple[Picture, ...]
    asked: tuple[Asked, ...]


class Metric(NamedTuple):
    """A metric of the results and of the blind results."""

    name: str
    value: float
    blind: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """The content of the page."""

    title: str
    summary: str
    metrics: tuple[Metric, ...]
    """Metrics of the results; `blind` is None if the blind results lack it."""
    compared: bool
    """Whether there are blind results."""
    about_metrics: str
    """Explanation of the metrics."""
    about_pictures: str
    """Explanation of the drawings."""
    examples: Mapping[str, Sequence[Group]]
    """Groups by heading, errors first."""
    attention: str
    """Separate page about the words and regions that the model attends to."""
    finetuning: Sequence[Mapping[str, Any]]
    """The journal of the run."""
    pretraining: Sequence[Mapping[str, Any]]
    """Journal of the pre-training run; empty if it is not shown."""
    made: Mapping[str, str]
    """Tables of settings, commands, hardware and time as HTML, by heading."""
    sources: Mapping[str, str]
    """Sources of the page."""


def report_page(content: Content) -> str:
    """Return the page as HTML; texts are escaped."""
    return html_page(
        content.title,
        content.summary,
        [
            ("How often it is right", _metrics(content)),
            *((heading, _groups(groups, content.about_pictures)) for heading, groups in content.examples.items()),
            ("Where it looks", _attention(content.attention)),
            ("How it was fine-tuned", _curves(content.finetuning)),
            ("How it was pre-trained", _curves(content.pretraining)),
            *content.made.items(),
            ("What this page was made from", table(("what", "where"), [*content.sources.items()])),
        ],
        style=static_text("report.css"),
    )


def _metrics(content: Content) -> str:
    rows = [
        (SKIPPED.get(metric.name, metric.name.replace("_", " ")), [_value(metric.name, value) for value in values])
        for metric in content.metrics
        for values in [(metric.value, metric.blind) if content.compared else (metric.value,)]
        if metric.name not in SKIPPED or any(values)
    ]
    return render("report_metrics.html", about=content.about_metrics, compared=content.compared, rows=rows)


def _value(name: str, value: float | None) -> tuple[str, str | None]:
    """Return a metric as text, and the length of its bar if it is a fraction."""
    if value is None:
        return "", None
    if name.endswith(NO_SHARE):
        return f"{value:,.4g}", None
    return f"{value:.1%}", f"{min(max(value, 0), 1):.3f}"


def _groups(groups: Sequence[Group], about: str) -> str:
    return render("report_groups.html", about=about, groups=groups, least=LEAST_PROBABILITY) if groups else ""


def _attention(page: str) -> str:
    return render("report_attention.html", page=page) if page else ""


def _curves(entries: Sequence[Mapping[str, Any]]) -> str:
    from vilbert.pipeline.pages.curves import LEARNING_PANELS, svg
    from vilbert.pipeline.train.run.report import CURVES_LEGEND

    if not entries:
        return ""
    return curves_section(CURVES_LEGEND, svg(entries, LEARNING_PANELS))
