"""Static pages in a real browser: words stay whole, and nothing is wider than a phone."""

from __future__ import annotations

from pathlib import Path

import pytest

from vilbert.pipeline.pages.html_page import html_page, table

from ..browse.chromium import CHROMIUM, chromium

pytest.importorskip("playwright", reason="the browser is driven by Playwright: pip install playwright")
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine: apt-get install chromium", allow_module_level=True)

LINES = """cells => cells.map(cell => {
  const range = document.createRange(); range.selectNodeContents(cell);
  return new Set([...range.getClientRects()].map(line => line.top)).size })"""
SETTINGS = [(f"setting_{number}", number) for number in range(40)]


def test_words_of_a_first_column_stay_whole_and_long_tables_are_in_columns(tmp_path: Path) -> None:
    facts = table(("what", "value"), [("command", "vilbert " + "x" * 400), ("started", "today"), ("p" * 70, "one")])
    page = tmp_path / "page.html"
    page.write_text(html_page("Run", "", [("Facts", facts), ("Settings", table(("setting", "value"), SETTINGS))]))
    with chromium() as browser:
        for width, columns in ((1280, 2), (390, 1)):
            opened = browser.new_page(viewport={"width": width, "height": 900})
            opened.goto(page.as_uri())
            assert opened.eval_on_selector_all(".wide tbody td:first-child", LINES)[:2] == [1, 1]
            assert opened.evaluate("document.documentElement.scrollWidth") == width
            lefts = "cells => new Set(cells.map(cell => cell.getBoundingClientRect().left)).size"
            assert opened.eval_on_selector_all(".long td:first-child", lefts) == columns
