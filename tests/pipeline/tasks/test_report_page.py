"""The page about a model of VQA: what it says, and that it needs nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from pipeline.tasks.report_page import Asked, Content, Picture, Ranked, Score, report_page

HOSTILE = "</td><script>alert('x')</script>&\"{title}"
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACw="
ASKED = Asked(
    question="What color is the ring?",
    truths=(("red", 9), ("pink", 1)),
    ranked=(Ranked("red", 0.91), Ranked("pink", 0.2), Ranked("green", 0.001)),
    right=1.0,
    blind="blue",
    blind_right=0.0,
)
CONTENT = Content(
    split="val",
    images=40,
    scores=(
        Score(questions="all", count=1200, accuracy=0.9126, blind=0.354),
        Score(questions="yes or no", count=700, accuracy=0.95, blind=0.5),
    ),
    pictures=(Picture(name="7", uri=PIXEL, regions=5, asked=(ASKED,)),),
    attention="<p>looks at</p>",
    finetuning=[{"kind": "train", "step": 1, "loss": 2.0}, {"kind": "eval", "step": 1, "accuracy": 0.5}],
    pretraining=[{"kind": "train", "step": 1, "loss": 2.0, "alignment_loss": 0.5}],
    sources={"model": "runs/vqa"},
)


class Page(HTMLParser):
    """Keeps every element's attributes, and the text right in each kind of element and anywhere in each class."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[tuple[str, str]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: dict[str, list[str]] = {}
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append((tag, dict(attrs).get("class") or ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop()[0] == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            for name in {self.open[-1][0], *(kind for _, kind in self.open if kind)}:
                self.text.setdefault(name, []).append(data)


def with_asked(**changes: Any) -> Page:
    picture = replace(CONTENT.pictures[0], asked=(replace(ASKED, **changes),))
    return Page(report_page(replace(CONTENT, pictures=(picture,))))


def test_every_part_has_its_heading() -> None:
    assert Page(report_page(CONTENT)).text["h2"] == [
        "How often it is right",
        "Pictures, questions and answers",
        "Where it looks",
        "How it learnt to answer",
        "How it learnt before, from pictures and captions",
        "What this page was made from",
    ]


def test_accuracy_stands_beside_that_of_another_picture() -> None:
    page = Page(report_page(CONTENT))
    assert "1,200 questions about 40 pictures" in page.text["p"][0]
    assert "91.3% right; 35.4% when it is shown another picture" in page.text["p"][0]
    assert [text for text in page.text["td"] if text.endswith("%")] == ["91.3%", "35.4%", "95.0%", "50.0%"]


def test_without_a_blind_evaluation_the_page_does_not_speak_of_one() -> None:
    scores = tuple(replace(score, blind=None) for score in CONTENT.scores)
    picture = replace(CONTENT.pictures[0], asked=(replace(ASKED, blind=None, blind_right=None),))
    html = report_page(replace(CONTENT, scores=scores, pictures=(picture,)))
    assert "another picture" not in html


def test_a_run_without_pretraining_has_no_curves_of_it() -> None:
    headings = Page(report_page(replace(CONTENT, pretraining=[]))).text["h2"]
    assert headings == [name for name in Page(report_page(CONTENT)).text["h2"] if "before" not in name]


def test_a_question_has_its_answers_and_those_of_people() -> None:
    page = Page(report_page(CONTENT))
    assert page.text["question"] == ["What color is the ring?"]
    assert page.text["true"] == ["red", "0.91"]
    assert any("red (9 of 10), pink (1 of 10)" in text for text in page.text["p"])


@pytest.mark.parametrize(
    ("right", "said", "kind"),
    [
        (1.0, "✓ right", "asked right"),
        (0.0, "✗ wrong", "asked"),
        (0.3, "30% right", "asked"),
        (0.9, "90% right", "asked right"),
    ],
)
def test_a_verdict_is_told_in_words_and_in_colour(right: float, said: str, kind: str) -> None:
    page = with_asked(right=right)
    assert page.text["verdict"][0] == said
    assert [found["class"] for _, found in page.elements if (found.get("class") or "").startswith("asked")] == [kind]


def test_answers_of_no_probability_are_left_out_but_the_first() -> None:
    assert "green" not in report_page(CONTENT)
    page = with_asked(ranked=(Ranked("green", 0.001), Ranked("blue", 0.0005)))
    assert "green" in page.text["td"]
    assert "blue" not in page.text["td"]


def test_what_texts_hold_is_shown_and_never_run() -> None:
    asked = replace(ASKED, question=HOSTILE, truths=((HOSTILE, 10),), ranked=(Ranked(HOSTILE, 0.5),), blind=HOSTILE)
    content = replace(
        CONTENT,
        split=HOSTILE,
        pictures=(Picture(name=HOSTILE, uri=PIXEL, regions=1, asked=(asked,)),),
        sources={"model": HOSTILE},
    )
    page = Page(report_page(content))
    assert page.text["question"] == [HOSTILE]
    assert HOSTILE in page.text["td"]
    assert "script" not in {tag for tag, _ in page.elements}


def test_the_attention_page_comes_through_whole() -> None:
    inner = "<p title=\"a & b\">'looks' &amp; sees</p><script>1 < 2</script>"
    page = Page(report_page(replace(CONTENT, attention=inner)))
    assert [found["srcdoc"] for tag, found in page.elements if tag == "iframe"] == [inner]


def test_nothing_is_fetched() -> None:
    page = Page(report_page(CONTENT))
    for _, attributes in page.elements:
        for name in ("src", "href", "xlink:href", "data", "poster"):
            assert (attributes.get(name) or "#").startswith(("#", "data:"))
    assert not re.search(r"url\((?!#)|@import", report_page(CONTENT))
