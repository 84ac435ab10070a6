"""docs/manifests.md names everything that a report can hold, every kind and every option."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import get_args

from vilbert.manifests.manifest import COLUMNS
from vilbert.manifests.readers.detect import Kind
from vilbert.manifests.report import ISSUES
from vilbert.manifests.settings import ManifestSettings

PAGE = (Path(__file__).resolve().parents[2] / "docs/manifests.md").read_text("utf-8")


def test_every_issue_stands_on_its_side() -> None:
    left_out = PAGE[PAGE.index("| left out |") : PAGE.index("| kept |")]
    kept = PAGE[PAGE.index("| kept |") :]
    for name, issue in ISSUES.items():
        assert (f"`{name}`" in left_out, f"`{name}`" in kept[: kept.index("Exit status")]) == (
            issue.left_out,
            not issue.left_out,
        )


def test_every_kind_option_and_column_is_there() -> None:
    assert all(f"`--kind {kind}`" in PAGE for kind in get_args(Kind))
    options = {field.name.replace("_", "-") for field in dataclasses.fields(ManifestSettings)} - {"sources"}
    assert [option for option in options if f"--{option}" not in PAGE and f"--no-{option}" not in PAGE] == []
    assert all(f"`{column}`" in PAGE for column in COLUMNS)
