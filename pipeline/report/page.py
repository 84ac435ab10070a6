"""The page about a fine-tuned model: how often it is right, its errors, right answers, attention, how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vilbert.pipeline.pages.html_page import curves_section, html_page, table
from vilbert.pipeline.pages.templates import render, static_text

LEAST_PROBABILITY = 0.005
"""An answer below it would be listed with 0.00, and is not."""
SKIPPED = {"left_out": "items left out", "unread": "items in unreadable shards"}
"""Counts that are shown only where there are some, and what the page calls them."""
NO_SHARE = ("rank", "cider", "distribution", "loss", "left_out", "unread", "ptb_tokenizer")
"""Ends of the names of metrics that are no share of 1."""


class Ranked(NamedTuple):
    """An answer of the model and how probable it is."""

    answer: str
    probability: float
    people: bool = False
    """Whether it is people's answer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One photograph."""

    uri: str
    """A data URI."""
    caption: str
    people: bool = False
    """Whether it is the true one of several."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One item and what is said to it."""

    question: tuple[str, ...]
    """What the model is asked, sentence by sentence."""
    model: str
    """Its answer."""
    people: tuple[str, ...]
    """People's, a line each."""
    ranked: tuple[Ranked, ...] = ()
    """The model's answers, the most probable first; empty where the task has no texts to rank."""
    right: float | None
    """From 0 to 1; None where no answer is simply right."""
    verdict: str
    """The same in words."""
    blind: str | None = None
    """What the model says when it is shown another image; None where that was not evaluated."""
    blind_verdict: str = ""
    pictures: tuple[Picture, ...] = ()
    """Photographs that belong to this item alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Photographs and what is asked about them."""

    pictures: tuple[Picture, ...]
    asked: tuple[Asked, ...]


class Metric(NamedTuple):
    """A metric of the results and of the blind results."""

    name: str
    value: float
    blind: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """All that the page shows."""

    title: str
    summary: str
    metrics: tuple[Metric, ...]
    """Of the results; a metric that the blind results lack has none of these."""
    compared: bool
    """Whether there are blind results."""
    about_metrics: str
    """What they measure."""
    about_pictures: str
    """What is drawn on the photographs."""
    examples: Mapping[str, Sequence[Group]]
    """By heading, errors first."""
    attention: str
    """A page of its own: which words and regions the model attends to."""
    finetuning: Sequence[Mapping[str, Any]]
    """The journal of the run."""
    pretraining: Sequence[Mapping[str, Any]]
    """The journal of the run before; empty where none is shown."""
    made: Mapping[str, str]
    """Tables of settings, commands, hardware and time as HTML, by heading."""
    sources: Mapping[str, str]
    """What the page was made from."""


def report_page(content: Content) -> str:
    """Return the page, HTML; what texts hold is shown as it is."""
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
    """Return a metric as text, and the length of its bar where it is a share."""
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
