"""The page about fetching names what there is."""

import re
from dataclasses import fields
from pathlib import Path

from vilbert.extractors.decode import REASONS
from vilbert.extractors.images.error import is_transient
from vilbert.pipeline.extract.fetching.settings import FetchSettings

DOCS = Path(__file__).parents[4] / "docs"


def test_the_page_lists_each_flag_and_its_default() -> None:
    page = (DOCS / "fetching.md").read_text()
    rows = dict(re.findall(r"^\| `(--[a-z-]+)`(?:, `--[a-z-]+`)? \| (.*?) \|", page, re.MULTILINE))
    for field in fields(FetchSettings):
        flag = f"--{field.name.replace('_', '-')}"
        assert f"`{flag}`" in page, flag
        if isinstance(field.default, int | float) and not isinstance(field.default, bool) and flag in rows:
            mib = 1024 * 1024
            said = f"{field.default // mib} MiB" if field.default >= mib else f"{field.default:g}"
            assert re.match(rf"{said}\b", rows[flag]), flag


def test_the_page_names_only_reasons_that_there_are() -> None:
    failures = (DOCS / "fetching.md").read_text().partition("## Failures")[2].partition("```")[0]
    named = set(re.findall(r"`([a-z0-9_]+)`", failures))
    assert named <= set(REASONS)
    assert {"timeout", "connection", "dns", "redirects", "private_address", "bad_url"} <= named


def test_the_reasons_worth_another_try_are_those_of_the_page() -> None:
    page = (
        (DOCS / "decoding.md")
        .read_text()
        .partition("A retry without any change may succeed")[2]
        .partition("permanent")[0]
    )
    named = set(re.findall(r"`([a-z0-9_]+)`", page))
    assert {reason for reason in REASONS if is_transient(reason)} <= named
    assert all(is_transient(reason) for reason in named)
    assert not is_transient("http_404")
