"""The page of a model that answers questions: how often it is right, on what, and how it learnt that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

from pipeline.train.curves import LEARNING_PANELS, svg
from pipeline.train.html_page import html_page, table

MOST_TRUTHS = 3
"""People's answers listed for a question."""
LEAST_PROBABILITY = 0.005
"""An answer below it would be listed with 0.00, and is not."""


class Ranked(NamedTuple):
    """An answer of the model and how probable it is."""

    answer: str
    probability: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """One question and what is said to it."""

    question: str
    """What is asked."""
    truths: tuple[tuple[str, int], ...]
    """People's answers and how many gave each, the most frequent first."""
    ranked: tuple[Ranked, ...]
    """The model's answers, the most probable first."""
    right: float
    """The official accuracy of the first, from 0 to 1."""
    blind: str | None
    """What the model says before another picture; None where that was not asked."""
    blind_right: float | None
    """How right that is."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Picture:
    """One photograph and all that is asked about it."""

    name: str
    """The image's id."""
    uri: str
    """A data URI of the photograph with the detector's boxes."""
    regions: int
    """How many the detector found."""
    asked: tuple[Asked, ...]
    """In the order of the files."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """How often the model is right on some of the questions."""

    questions: str
    """Which."""
    count: int
    """How many."""
    accuracy: float
    """Before their own pictures, from 0 to 1."""
    blind: float | None
    """Before others'; None where that was not evaluated."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Content:
    """All that the page shows."""

    split: str
    """Whose questions were answered."""
    images: int
    """How many they are about."""
    scores: tuple[Score, ...]
    """Of all questions first, then by type."""
    pictures: tuple[Picture, ...]
    """Some of them."""
    attention: str
    """A page of its own: who looks at whom."""
    finetuning: Sequence[Mapping[str, Any]]
    """The journal of the run."""
    pretraining: Sequence[Mapping[str, Any]]
    """The journal of the run before; empty where none is shown."""
    sources: Mapping[str, str]
    """What the page was made from."""


STYLE = """
.scores td, .scores th { padding-right: 2rem; white-space: nowrap; } .scores tr:nth-child(2) { font-weight: 600; }
.bar { display: inline-block; height: .7em; width: calc(var(--w) * 9rem + 1px); margin-right: .5rem; }
.seeing { background: var(--first); } .blind { background: var(--second); }
.picture { display: grid; grid-template-columns: minmax(240px, 2fr) 3fr; gap: 1.5rem; align-items: start;
  border-top: 1px solid var(--grid); padding: 1.25rem 0; }
figure { margin: 0; position: sticky; top: 1rem; } figure img { width: 100%; height: auto; display: block; }
figcaption { color: var(--quiet); }
@media (max-width: 800px) { .picture { grid-template-columns: 1fr; } figure { position: static; } }
.all { display: grid; grid-template-columns: repeat(auto-fill, minmax(290px, 1fr)); gap: 1rem; }
.asked { border-left: 4px solid var(--second); padding-left: .8rem; } .asked.right { border-color: var(--third); }
.asked p { margin: .15rem 0; } .asked .question { color: var(--ink); font-weight: 600; }
.verdict { white-space: nowrap; } p.verdict { font-weight: 600; color: var(--second); }
.right p.verdict { color: var(--third); }
.asked td { border: 0; padding: 0 .7rem 0 0; } .asked td:first-child { min-width: 5.5rem; }
.asked .bar { width: calc(var(--w) * 5rem + 1px); margin: 0; }
.asked .true { font-weight: 600; }
iframe { width: 100%; height: 1000px; border: 1px solid var(--grid); }
"""


def report_page(content: Content) -> str:
    """Return the page, HTML; what texts hold is shown as it is."""
    everything = content.scores[0]
    blind = "" if everything.blind is None else f"; {everything.blind:.1%} when it is shown another picture"
    return html_page(
        "A model that answers questions about pictures",
        f"{everything.count:,} questions about {content.images:,} pictures that it was not trained on "
        f"({content.split}): {everything.accuracy:.1%} right{blind}.",
        [
            ("How often it is right", _scores(content.scores)),
            ("Pictures, questions and answers", _pictures(content.pictures)),
            ("Where it looks", _attention(content.attention)),
            ("How it learnt to answer", _curves(content.finetuning)),
            ("How it learnt before, from pictures and captions", _curves(content.pretraining)),
            ("What this page was made from", table(("what", "where"), [*content.sources.items()])),
        ],
        style=STYLE,
    )


def _scores(scores: Sequence[Score]) -> str:
    compared = scores[0].blind is not None
    heads = [
        "questions whose answer is",
        "how many",
        "right",
        *(["right when shown another picture"] if compared else []),
    ]
    rows = "\n".join(
        f'<tr><td>{escape(score.questions)}</td><td class="number">{score.count:,}</td>'
        f"<td>{_share(score.accuracy, 'seeing')}</td>"
        + ("" if score.blind is None else f"<td>{_share(score.blind, 'blind')}</td>")
        + "</tr>"
        for score in scores
    )
    said = "The official accuracy of VQA: an answer is wholly right if three of ten people gave it."
    if compared:
        said += (
            " In the last column the same model is shown the regions of a picture that the question is not about: what "
            "it gets right there, it guesses from the words. The difference is what it sees."
        )
    return (
        f'<p>{said}</p>\n<div class="wide"><table class="scores">\n'
        f"<tr>{''.join(f'<th>{head}</th>' for head in heads)}</tr>\n{rows}\n</table></div>"
    )


def _share(share: float, kind: str) -> str:
    return f'<span class="bar {kind}" style="--w:{share:.3f}"></span>{share:.1%}'


def _pictures(pictures: Sequence[Picture]) -> str:
    said = (
        "Pictures that it was not trained on, taken evenly from all, whatever it answers. The detector's boxes are "
        "drawn with the class that it gives them and how sure it is. Below each question are the model's answers with "
        "their probabilities, people's answer in bold; each answer is judged by itself, so they do not sum to 1."
    )
    return f"<p>{said}</p>\n" + "\n".join(map(_picture, pictures))


def _picture(picture: Picture) -> str:
    right = sum(asked.right for asked in picture.asked)
    caption = f"Picture {picture.name}: {picture.regions} regions; {right:.3g} of {len(picture.asked)} answers right"
    return (
        f'<div class="picture"><figure><img src="{escape(picture.uri)}" alt="{escape(caption)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>\n"
        f'<div class="all">\n{"".join(map(_asked, picture.asked))}</div></div>'
    )


def _asked(asked: Asked) -> str:
    truth = asked.truths[0][0]
    rows = "".join(
        f'<tr class="{"true" if found.answer == truth else ""}"><td>{escape(found.answer)}</td>'
        f'<td class="number">{found.probability:.2f}</td>'
        f'<td><span class="bar seeing" style="--w:{found.probability:.3f}"></span></td></tr>'
        for at, found in enumerate(asked.ranked)
        if at == 0 or found.probability >= LEAST_PROBABILITY
    )
    people = sum(count for _, count in asked.truths)
    truths = ", ".join(f"{answer} ({count} of {people})" for answer, count in asked.truths[:MOST_TRUTHS])
    blind = ""
    if asked.blind is not None and asked.blind_right is not None:
        verdict = f'<span class="verdict">{_verdict(asked.blind_right)}</span>'
        blind = f"<p>Shown another picture: {escape(asked.blind)}, {verdict}</p>"
    return (
        f'<div class="asked{" right" if asked.right >= 0.5 else ""}"><p class="question">{escape(asked.question)}</p>\n'
        f'<p class="verdict">{_verdict(asked.right)}</p><table>{rows}</table>\n'
        f"<p>People: {escape(truths)}</p>{blind}</div>\n"
    )


def _verdict(right: float) -> str:
    if right > 0.99:
        return "✓ right"
    return f"{right:.0%} right" if right else "✗ wrong"


def _attention(page: str) -> str:
    if not page:
        return ""
    # As tall as what it holds, where scripts run.
    fit = "this.style.height = this.contentDocument.documentElement.scrollHeight + 20 + 'px'"
    said = (
        "One of the questions above, of those that the model answers best because of the picture. The words are "
        "buttons: click one, and the regions that it looks at are shaded."
    )
    return f'<p>{said}</p>\n<iframe title="attention" onload="{fit}" srcdoc="{escape(page)}"></iframe>'


def _curves(entries: Sequence[Mapping[str, Any]]) -> str:
    if not entries:
        return ""
    legend = "Faint: as measured; strong: averaged over neighbours; dots: evaluations on held-out samples."
    return f'<p>{legend}</p>\n<div class="wide">{svg(entries, LEARNING_PANELS)}</div>'
