"""Sources are data sets or files of published features; a named format is that of the files."""

from __future__ import annotations

from pathlib import Path

import pytest

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.rebuild.formats.registry import ImportOptions
from vilbert.pipeline.rebuild.open_features import open_features

from ..shards.conftest import write_small_dataset


def test_a_named_format_leaves_data_sets_as_they_are(tmp_path: Path) -> None:
    data = write_small_dataset(tmp_path).directory
    with open_features(data, "bottom-up-tsv", ImportOptions()) as source:
        assert source.description.format == "vilbert"


def test_an_unknown_format_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("1\t2\n")
    with pytest.raises(RefusedError, match="no format 'tvs'"):
        open_features(path, "tvs", ImportOptions())
