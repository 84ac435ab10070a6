"""docs/extending/score.md: its package outside the repository scores a data set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.shards.columns.info import read_column
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.plugins import all_entry_points

from .extending_pages import install_page
from .pipeline.shards.conftest import write_small_dataset


@pytest.fixture
def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The package of the page on sys.path."""
    folder = install_page("score.md", tmp_path / "packages")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(folder)
        all_entry_points.cache_clear()
        yield
    all_entry_points.cache_clear()


@pytest.mark.usefixtures("_package")
def test_a_score_is_found_by_its_entry_point_and_selected_by(tmp_path: Path) -> None:
    data = write_small_dataset(tmp_path).directory
    assert main(["score", str(data), "--column", "light", "--scores", "brightness", "boxes"]) == 0
    info = read_column(LocalFolder(data / "columns/light"))
    assert info is not None
    assert info.fingerprint_fields["scores"]["brightness"] == {
        "version": 1,
        "source": {"distribution": "toy-score", "version": "0.2"},
    }
    output = tmp_path / "bright.parquet"
    assert main(["select", str(data), "--where", "light.brightness > 100", "--output", str(output)]) == 0
    rows = [int(image_id[-3:]) for image_id in pq.read_table(output).column("image_id").to_pylist()]
    assert rows == [row for row in range(10) if row not in (2, 5, 6) and (row * 20 + 128 + 64) / 3 > 100]
    assert main(["score", str(data), "--column", "b", "--scores", "brightness", "toy_score:Brightness"]) == 2
