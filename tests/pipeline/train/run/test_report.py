"""The report: whatever a run has so far becomes one valid page that needs nothing else."""

import json
import math
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.pages.curves import LEARNING_PANELS, POINTS, curve, figure, measured, smoothed, svg
from vilbert.pipeline.train.run.journal import METRICS_FILE, Journal
from vilbert.pipeline.train.run.report import last_values, write_report

HOSTILE = "</td><script>alert('x')</script>&\"{title}"
VOID = {"meta", "br"}


class Page(HTMLParser):
    """Checks that elements are closed in order, and keeps the text of each kind of element."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.tags: set[str] = set()
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)


def train_values(step: int) -> dict[str, float]:
    losses = {f"{name}_loss": 3 / step for name in ("masked_lm", "masked_image", "alignment")}
    return {"loss": 9 / step, **losses, "learning_rate": 1e-4, "gradient_norm": 2.0 + step, "samples_per_second": 99.0}


def report(run: Path, entries: list[tuple[str, int, dict[str, float]]], facts: dict[str, Any] | None = None) -> str:
    """Return the report of a run that wrote these entries and this run.json."""
    journal = Journal(run, resumed_at=None)
    for kind, step, values in entries:
        journal.write(kind, step, values)
    journal.close()
    if facts is not None:
        (run / "run.json").write_text(json.dumps({"settings": {}, "model": {}, "data": [], **facts}))
    return write_report(run).read_text()


@pytest.mark.parametrize("steps", [1, 2, 3000])
def test_every_panel_with_values_is_drawn_whatever_the_length(steps: int, tmp_path: Path) -> None:
    entries = [("train", step, train_values(step)) for step in range(1, steps + 1)]
    html = report(tmp_path, [*entries, ("eval", steps, {"masked_lm_accuracy": 0.5, "alignment_loss": 0.1})])
    Page(html)
    drawings = [ElementTree.fromstring(drawing) for drawing in re.findall("<svg.*?</svg>", html, re.DOTALL)]
    texts = [
        "".join(element.itertext()).strip()
        for drawing in drawings
        for element in drawing.iter("{http://www.w3.org/2000/svg}text")
    ]
    titles = ["Total loss", "Masked words", "Masked regions", "Alignment", "Held-out accuracy", "Learning rate"]
    assert {*titles, "Gradient norm", "Speed", "samples/s", "step"} <= set(texts)
    assert "Waiting for data" not in texts
    assert len(html) < 400_000  # the limit of a page is 3 MB


@pytest.mark.parametrize("facts", [None, {}, {"settings": {}, "data": [], "software": {}}])
def test_a_run_without_entries_has_a_page(facts: dict | None, tmp_path: Path) -> None:
    html = report(tmp_path, [], facts)
    page = Page(html)
    assert page.text["p"] == ["Nothing is measured yet."]
    assert "svg" not in page.tags


def test_a_folder_without_journal_has_a_page(tmp_path: Path) -> None:
    page = Page(write_report(tmp_path).read_text())
    assert page.text["p"] == ["Nothing is measured yet."]


def test_the_page_asks_the_network_for_nothing_and_its_colours_follow_the_mode(tmp_path: Path) -> None:
    html = report(tmp_path, [("train", 1, train_values(1)), ("train", 2, train_values(2))])
    assert not Page(html).tags & {"script", "link", "img", "iframe"}
    assert not re.search(r"""(src|href)\s*=\s*["'](?!#)|url\((?!#)|@import""", html)
    drawing = html[html.index("<svg") :]
    assert not re.search(r"#[0-9a-f]{6}\b", drawing), "a fixed colour is unreadable in one of the modes"
    used = set(re.findall(r"var\((--\w+)\)", drawing))
    light, dark = html[: html.index("prefers-color-scheme")], html[html.index("prefers-color-scheme") :]
    assert {"--ink", "--grid", "--first"} <= used
    for name in used:
        assert f"{name}: #" in light
        assert f"{name}: #" in dark


def test_texts_are_escaped(tmp_path: Path) -> None:
    part = {"path": HOSTILE, "records_sha256": HOSTILE, "fingerprint": {HOSTILE: HOSTILE}, "samples": 1}
    facts = {"settings": {HOSTILE: {"inner": HOSTILE}, "list": [HOSTILE]}, "data": [part], "software": {"x": HOSTILE}}
    run = tmp_path / "<b>run&"
    run.mkdir()
    page = Page(report(run, [("train", 1, {HOSTILE: 1.0})], facts))
    assert not page.tags & {"script", "b"}
    assert HOSTILE in page.text["td"]
    assert page.text["h1"] == ["Training run <b>run&"]


def test_settings_data_sets_and_last_values_are_in_tables(tmp_path: Path) -> None:
    facts = {
        "settings": {"items": {"max_words": 36, "swap": 0.5}, "resume": None, "blind": False},
        "data": [{"path": "data/a", "records_sha256": "ab" * 32, "fingerprint": {"detector": "d"}, "samples": 12345}],
        "eval_data": [{"path": "data/b", "records_sha256": "cd" * 32, "fingerprint": "f", "samples": 7}],
        "model": {"hidden_size": 768},
        "software": {"torch": "2.14"},
    }
    entries = [("train", 1, {"loss": 2.0}), ("train", 2, {"loss": 1.25}), ("eval", 2, {"loss": 1.5, "unread": 0})]
    cells = Page(report(tmp_path, entries, facts)).text["td"]
    for pair in [("items.max_words", "36"), ("resume", "null"), ("blind", "false"), ("hidden_size", "768")]:
        assert pair in pairwise(cells)
    assert {"data/a", "12,345", "ab" * 32, '{"detector": "d"}', "data/b", "cd" * 32, "torch", "2.14"} <= set(cells)
    at = cells.index("loss")
    assert cells[at : at + 3] == ["loss", "1.25", "1.5"]


def test_values_that_are_not_finite_are_told_and_leave_a_gap(tmp_path: Path) -> None:
    entries = [("train", 1, {"loss": 1.0}), ("train", 2, {"loss": math.nan})]
    page = Page(report(tmp_path, entries))
    assert "1 of them with values that are not finite" in page.text["p"][0]
    assert "nan" in page.text["td"]


def test_a_damaged_journal_is_named(tmp_path: Path) -> None:
    (tmp_path / METRICS_FILE).write_text("{}\n")
    with pytest.raises(ShardError, match="line 1"):
        write_report(tmp_path)


def test_the_same_run_gives_the_same_bytes(tmp_path: Path) -> None:
    first = report(tmp_path, [("train", 1, train_values(1)), ("eval", 1, {"loss": 1.0})])
    assert write_report(tmp_path).read_text() == first


def test_last_values_of_kinds_do_not_mix() -> None:
    entries = [
        {"kind": "eval", "step": 2, "loss": 3.0},
        {"kind": "train", "step": 3, "norm": None, "not_finite": ["norm=inf"]},
    ]
    assert last_values(entries) == [("step", 3, 2), ("norm", "inf", ""), ("loss", "", 3.0)]


def test_a_long_curve_is_averaged_and_keeps_its_mean() -> None:
    entries = [{"kind": "train", "step": step, "loss": float(step % 7)} for step in range(6000)]
    steps, values = curve(entries, "train", "loss")
    assert len(steps) == POINTS
    assert np.all(np.diff(steps) > 0)
    assert values.mean() == pytest.approx(np.mean([step % 7 for step in range(6000)]))


def test_smoothing_keeps_a_constant_and_quietens_noise() -> None:
    noise = np.random.default_rng(0).normal(size=400)
    assert np.allclose(smoothed(np.full(400, 2.5)), 2.5)
    assert smoothed(noise).std() < 0.5 * noise.std()
    assert smoothed(np.zeros(0)).size == 0


def test_smoothing_does_not_lower_the_start_of_a_falling_curve() -> None:
    falling = np.exp(-np.arange(400) / 20)
    assert smoothed(falling)[0] == falling[0]
    assert np.all(smoothed(falling) >= falling * 0.99)


@pytest.mark.parametrize(("first", "scale"), [(4.0, "linear"), (400.0, "log")])
def test_a_loss_that_falls_far_has_a_logarithmic_axis(first: float, scale: str) -> None:
    entries = [{"kind": "train", "step": step, "loss": loss} for step, loss in enumerate([first, 2.0, 1.0])]
    (axes,) = figure(entries, LEARNING_PANELS[0]).axes
    assert axes.get_yscale() == scale


def test_panels_can_be_chosen() -> None:
    entries = [{"kind": "train", "step": 1, "loss": 1.0, "learning_rate": 0.1, "gradient_norm": 2.0}]
    assert [panel.title for panel in measured(entries, LEARNING_PANELS)] == ["Total loss"]
    assert len(measured(entries)) == 3


def test_each_panel_is_a_drawing_of_its_own_and_no_wider_than_a_phone() -> None:
    entries = [{"kind": "train", "step": step, **train_values(step)} for step in (1, 2, 3)]
    drawn = re.findall("<svg.*?</svg>", svg(entries), re.DOTALL)
    assert len(drawn) == len(measured(entries)) > 4
    for drawing in drawn:
        width = float(ElementTree.fromstring(drawing).attrib["viewBox"].split()[2])
        assert width <= 390 - 2 * 16
    ids = re.findall(r'\bid="([^"]+)"', "".join(drawn))
    assert len(ids) == len(set(ids)), "an id stands twice on the page"


def test_held_out_questions_without_a_path_give_no_empty_table(tmp_path: Path) -> None:
    html = report(tmp_path, [], {"data": [{"path": "features", "samples": 3}], "eval_data": [{"items": "ab" * 32}]})
    assert "Data sets" in Page(html).text["h2"]
    assert "Held-out data sets" not in Page(html).text["h2"]
