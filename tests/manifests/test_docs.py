"""docs/manifests.md names everything that a report can hold, every kind and every option."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import get_args

from vilbert.manifests.manifest import COLUMNS
from vilbert.manifests.readers.detect import Kind
from vilbert.manifests.report import ISSUES
from vilbert.manifests.settings import ManifestSettings

PAGE = (Path(__file__).resolve().parents[2] / "docs/manifests.md").read_text("utf-8")


def issues_of_table(heading: str) -> set[str]:
    """Return the names in the first column of the table with this heading."""
    rows = PAGE.partition(f"| {heading} | |\n|---|---|\n")[2].partition("\n\n")[0].splitlines()
    return {name for row in rows for name in re.findall(r"`([a-z-]+)`", row.split("|")[1])}


def test_the_two_tables_list_the_issues_of_the_report() -> None:
    assert issues_of_table("left out") == {name for name, issue in ISSUES.items() if issue.left_out}
    assert issues_of_table("kept") == {name for name, issue in ISSUES.items() if not issue.left_out}


def test_every_kind_option_and_column_is_there() -> None:
    assert all(f"`--kind {kind}`" in PAGE for kind in get_args(Kind))
    options = {field.name.replace("_", "-") for field in dataclasses.fields(ManifestSettings)} - {"sources"}
    assert [option for option in options if f"--{option}" not in PAGE and f"--no-{option}" not in PAGE] == []
    assert all(f"`{column}`" in PAGE for column in COLUMNS)
