"""The table of causes, and the page that lists them."""

from __future__ import annotations

import re
from pathlib import Path

from vilbert.pipeline.rebuild.compare.causes import CAUSES
from vilbert.pipeline.rebuild.compare.suspects import SUSPECTS

PAGE = Path(__file__).parents[4] / "docs" / "compare.md"


def test_the_page_lists_every_cause_and_which_are_harmless() -> None:
    rows = re.findall(r"^\| `([a-z][a-z0-9-]+)` \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert {name for name, _ in rows} == CAUSES.keys()
    harmless = {name for name, text in rows if "(harmless)" in text}
    assert harmless == {name for name, cause in CAUSES.items() if not cause.problem}


def test_every_suspect_is_a_cause() -> None:
    assert SUSPECTS.keys() <= CAUSES.keys()
