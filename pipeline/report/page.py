"""The page about a fine-tuned model: how often it is right, its errors, right answers, attention, how it was made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

from vilbert.pipeline.pages.html_page import html_page, table

LEAST_PROBABILITY = 0.005
"""An answer below it would be listed with 0.00, and is not."""
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


STYLE = """
.scores td, .scores th { padding-right: 1.5rem; overflow-wrap: normal; }
.bar { display: inline-block; height: .7em; width: calc(var(--w) * 6rem + 1px); margin-right: .5rem; }
.seeing { background: var(--first); } .blind { background: var(--second); }
.group { display: grid; grid-template-columns: minmax(240px, 2fr) 3fr; gap: 1.5rem; align-items: start;
  border-top: 1px solid var(--grid); padding: 1.25rem 0; }
.group > .all:only-child { grid-column: 1 / -1; }
figure { margin: 0 0 .5rem; } figure img { max-width: 100%; height: auto; display: block; }
.photographs { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: .6rem; }
.photographs figure img { width: 100%; }
figcaption { color: var(--quiet); }
.all { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 290px), 1fr)); gap: 1rem; }
.asked { border-left: 4px solid var(--second); padding-left: .8rem; min-width: 0; }
.asked.right { border-color: var(--third); } .asked.open { border-color: var(--grid); }
.asked p { margin: .15rem 0; color: var(--ink); } .asked .question { font-size: 1.05rem; }
p.verdict { font-weight: 600; color: var(--second); } .right p.verdict { color: var(--third); }
.open p.verdict { color: var(--quiet); }
.who { display: inline-block; min-width: 4.2rem; color: var(--quiet); }
.tag { border: 1px solid var(--quiet); border-radius: 3px; color: var(--quiet); font-size: .8em; padding: 0 .3em;
  white-space: nowrap; }
.asked table { margin: .3rem 0; width: 100%; } .asked caption { text-align: left; color: var(--quiet); }
.asked td { border: 0; padding: 0 .7rem 0 0; min-width: 0; }
.asked .bar { width: calc(var(--w) * 4rem + 1px); margin: 0; }
.asked td:last-child { width: 4.2rem; }
.thumbnails { display: grid; grid-template-columns: repeat(auto-fill, minmax(95px, 1fr)); gap: .6rem;
  margin-top: .4rem; }
.thumbnails .people img { outline: 4px solid var(--third); }
iframe { width: 100%; height: 1000px; border: 1px solid var(--grid); }
summary { cursor: pointer; color: var(--quiet); margin: .3rem 0; }
@media (max-width: 800px) { .group { grid-template-columns: minmax(0, 1fr); gap: .75rem; }
  .scores td, .scores th { padding-right: .8rem; min-width: 0; } .scores .bar { display: block; } }
"""


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
        style=STYLE,
    )


def _metrics(content: Content) -> str:
    heads = ["metric", "the model", *(["the model when shown another image"] if content.compared else [])]
    rows = "\n".join(
        f"<tr><td>{escape(metric.name.replace('_', ' '))}</td><td>{_value(metric.name, metric.value, 'seeing')}</td>"
        + ("" if not content.compared else f"<td>{_value(metric.name, metric.blind, 'blind')}</td>")
        + "</tr>"
        for metric in content.metrics
    )
    said = content.about_metrics
    if content.compared:
        said += (
            " In the last column the same model is shown the regions of an image that the text is not about: what it "
            "gets right there, it guesses from the text. The difference is what it sees."
        )
    return (
        f'<p>{escape(said)}</p>\n<div class="wide"><table class="scores">\n'
        f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>\n{rows}\n</table></div>"
    )


def _value(name: str, value: float | None, kind: str) -> str:
    if value is None:
        return ""
    if name.endswith(NO_SHARE):
        return f"{value:,.4g}"
    return f'<span class="bar {kind}" style="--w:{min(max(value, 0), 1):.3f}"></span>{value:.1%}'


def _groups(groups: Sequence[Group], about: str) -> str:
    return f"<p>{escape(about)}</p>\n" + "\n".join(map(_group, groups)) if groups else ""


def _group(group: Group) -> str:
    pictures = "".join(map(_picture, group.pictures))
    return (
        '<div class="group">'
        + (f'<div class="photographs">{pictures}</div>\n' if pictures else "")
        + f'<div class="all">\n{"".join(map(_asked, group.asked))}</div></div>'
    )


def _picture(picture: Picture) -> str:
    kind, mark = (' class="people"', ' <span class="tag">true photograph</span>') if picture.people else ("", "")
    return (
        f'<figure{kind}><img src="{escape(picture.uri)}" alt="{escape(picture.caption)}">'
        f"<figcaption>{escape(picture.caption)}{mark}</figcaption></figure>\n"
    )


def _asked(asked: Asked) -> str:
    kind = " open" if asked.right is None else " right" if asked.right >= 0.5 else ""
    question = "".join(f'<p class="question">{escape(text)}</p>\n' for text in asked.question)
    people = "".join(f'<p><span class="who">People:</span> {escape(text)}</p>\n' for text in asked.people)
    pictures = "".join(map(_picture, asked.pictures))
    blind = ""
    if asked.blind is not None:
        blind = f"<p>Shown another image, the model says: {escape(asked.blind)}, {escape(asked.blind_verdict)}</p>"
    return (
        f'<div class="asked{kind}">{question}<p class="verdict">{escape(asked.verdict)}</p>\n'
        f'<p class="model"><span class="who">Model:</span> {escape(asked.model)}</p>\n{people}{_ranked(asked.ranked)}'
        + (f'<div class="thumbnails">{pictures}</div>\n' if pictures else "")
        + f"{blind}</div>\n"
    )


def _ranked(ranked: Sequence[Ranked]) -> str:
    rows = "".join(
        f"<tr><td>{escape(found.answer)}"
        + (' <span class="tag">people&#x27;s answer</span>' if found.people else "")
        + f'</td><td class="number">{found.probability:.2f}</td>'
        f'<td><span class="bar seeing" style="--w:{found.probability:.3f}"></span></td></tr>'
        for at, found in enumerate(ranked)
        if at == 0 or found.people or found.probability >= LEAST_PROBABILITY
    )
    return f"<table><caption>The model's probabilities</caption>{rows}</table>\n" if rows else ""


def _attention(page: str) -> str:
    if not page:
        return ""
    # As tall as what it holds, where scripts run.
    fit = "this.style.height = this.contentDocument.documentElement.scrollHeight + 20 + 'px'"
    return f'<iframe title="attention" onload="{fit}" srcdoc="{escape(page)}"></iframe>'


def _curves(entries: Sequence[Mapping[str, Any]]) -> str:
    from vilbert.pipeline.pages.curves import LEARNING_PANELS, svg
    from vilbert.pipeline.train.run.report import CURVES_LEGEND

    if not entries:
        return ""
    return f'<p>{CURVES_LEGEND}</p>\n<div class="panels">{svg(entries, LEARNING_PANELS)}</div>'
