"""The page about a model of VQA: what it says, and that it needs nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import pytest

from vilbert.pipeline.report.page import Asked, Content, Group, Metric, Picture, Ranked, report_page

HOSTILE = "</td><script>alert('x')</script>&\"{title}"
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACw="
ASKED = Asked(
    question=("What color is the ring?",),
    model="red",
    people=("red (9 of 10), pink (1 of 10)",),
    ranked=(Ranked("red", 0.91, people=True), Ranked("pink", 0.2), Ranked("green", 0.001)),
    right=1.0,
    verdict="✓ right",
    blind="blue",
    blind_verdict="✗ wrong",
)
GROUP = Group(pictures=(Picture(uri=PIXEL, caption="image 7"),), asked=(ASKED,))
CONTENT = Content(
    title="What the model has learnt: vqa",
    summary="1,200 items about 40 images of the val split: accuracy 91.3%.",
    metrics=(Metric("accuracy", 0.9126, 0.354), Metric("accuracy_yes_no", 0.95, 0.5), Metric("loss", 2.5)),
    compared=True,
    about_metrics="The official accuracy.",
    about_pictures="Boxes are drawn.",
    examples={"Errors": [GROUP], "Right answers": [GROUP]},
    attention="<p>looks at</p>",
    finetuning=[{"kind": "train", "step": 1, "loss": 2.0}, {"kind": "eval", "step": 1, "accuracy": 0.5}],
    pretraining=[{"kind": "train", "step": 1, "loss": 2.0, "alignment_loss": 0.5}],
    made={"Settings of the fine-tuning": "<p>settings</p>", "Command of an old run": ""},
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
    group = replace(GROUP, asked=(replace(ASKED, **changes),))
    return Page(report_page(replace(CONTENT, examples={"Errors": [group]})))


def test_every_part_has_its_heading_errors_first_and_empty_parts_are_left_out() -> None:
    assert Page(report_page(CONTENT)).text["h2"] == [
        "How often it is right",
        "Errors",
        "Right answers",
        "Where it looks",
        "How it was fine-tuned",
        "How it was pre-trained",
        "Settings of the fine-tuning",
        "What this page was made from",
    ]


def test_metrics_stand_beside_those_of_another_image_and_a_loss_is_no_share() -> None:
    page = Page(report_page(CONTENT))
    assert [text for text in page.text["td"] if text.endswith("%")] == ["91.3%", "35.4%", "95.0%", "50.0%"]
    assert "2.5" in page.text["td"]


def test_without_a_blind_evaluation_the_page_does_not_speak_of_one() -> None:
    metrics = tuple(metric._replace(blind=None) for metric in CONTENT.metrics)
    group = replace(GROUP, asked=(replace(ASKED, blind=None),))
    html = report_page(replace(CONTENT, metrics=metrics, compared=False, examples={"Errors": [group]}))
    assert "another image" not in html


def test_a_run_without_pretraining_has_no_curves_of_it() -> None:
    headings = Page(report_page(replace(CONTENT, pretraining=[]))).text["h2"]
    assert headings == [name for name in Page(report_page(CONTENT)).text["h2"] if "pre-trained" not in name]


@pytest.mark.slow
def test_the_model_s_answer_and_people_s_are_told_apart_by_words_and_nothing_of_people_s_is_bold() -> None:
    html = report_page(replace(CONTENT, examples={"Errors": [GROUP]}))
    page = Page(html)
    assert page.text["question"] == ["What color is the ring?"]
    assert page.text["who"] == ["Model:", "People:"]
    assert re.search(r'Model:</span> red</p>\s*<p><span class="who">People:</span> red \(9 of 10\), pink', html)
    assert page.text["tag"] == ["people's answer"]
    assert not {"b", "strong"} & {tag for tag, _ in page.elements}
    bold = re.findall(r"([^{}]+)\{[^}]*font-weight: 600", html)
    assert [name.strip() for name in bold] == ["th", "p.verdict"]


@pytest.mark.parametrize(
    ("right", "kind"), [(1.0, "asked right"), (0.0, "asked"), (0.9, "asked right"), (None, "asked open")]
)
def test_a_verdict_is_told_in_words_and_in_colour(right: float | None, kind: str) -> None:
    page = with_asked(right=right, verdict="so right")
    assert page.text["verdict"] == ["so right"]
    assert [found["class"] for _, found in page.elements if (found.get("class") or "").startswith("asked")] == [kind]


def test_answers_of_no_probability_are_left_out_but_the_first_and_people_s() -> None:
    assert "green" not in report_page(CONTENT)
    ranked = (Ranked("green", 0.001), Ranked("blue", 0.0005), Ranked("pink", 0.0001, people=True))
    page = with_asked(ranked=ranked)
    assert {"green", "pink "} <= {*page.text["td"]}
    assert "blue" not in page.text["td"]


def test_the_true_photograph_of_several_is_marked() -> None:
    pictures = (Picture(uri=PIXEL, caption="rank 1"), Picture(uri=PIXEL, caption="rank 2", people=True))
    page = with_asked(pictures=pictures, ranked=())
    assert page.text["people"] == ["rank 2 ", "true photograph"]


def test_what_texts_hold_is_shown_and_never_run() -> None:
    asked = replace(
        ASKED, question=(HOSTILE,), model=HOSTILE, people=(HOSTILE,), ranked=(Ranked(HOSTILE, 0.5),), blind=HOSTILE,
        verdict=HOSTILE, pictures=(Picture(uri=PIXEL, caption=HOSTILE),),
    )  # fmt: skip
    content = replace(
        CONTENT, title=HOSTILE, summary=HOSTILE, about_metrics=HOSTILE, about_pictures=HOSTILE,
        examples={"Errors": [replace(GROUP, asked=(asked,), pictures=asked.pictures)]}, sources={"model": HOSTILE},
    )  # fmt: skip
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
