"""`vilbert browse --selection`: pages and charts are those of the selected samples."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from vilbert.pipeline.browse.filters import Filters
from vilbert.pipeline.browse.similar import FOUND
from vilbert.pipeline.browse.site import Site
from vilbert.pipeline.browse.statistics import charts
from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import RefusedError

from ..shards.conftest import write_small_dataset
from .conftest import Browse
from .test_search import varied

WHERE = "num_boxes % 2 == 0 and width > 110"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A data set, and a selection of it."""
    folder = tmp_path_factory.mktemp("varied")
    data = write_small_dataset(folder, rows=40, shard_size=7, change=varied).directory
    assert main(["select", str(data), "--where", WHERE, "--output", str(folder / "s.parquet")]) == 0
    return data, folder / "s.parquet"


@pytest.mark.parametrize("values", [{}, {"boxes_min": 3}, {"object": "dog"}, {"caption": "word1"}, {"split": "val"}])
@pytest.mark.parametrize("sort", ["", "-boxes", "shuffled"])
def test_filters_find_the_selected_samples_alone(
    made: tuple[Path, Path], browse: Browse, values: dict[str, Any], sort: str
) -> None:
    whole, some = (browse(made[0], selection=files).datasets[0] for files in ((), (made[1],)))
    columns = whole.index.columns
    selected = set(np.flatnonzero((columns["boxes"] % 2 == 0) & (columns["width"] > 110)).tolist())
    expected = [it for it in whole.search.page(Filters(**values, sort=sort)).numbers if it in selected]
    found = some.search.page(Filters(**values, sort=sort))
    assert found.numbers == expected
    assert found.matches == len(expected)


def test_charts_and_the_page_of_statistics_count_the_selected_samples(
    made: tuple[Path, Path], browse: Browse, client_of: Callable[[Site], TestClient], tmp_path: Path
) -> None:
    output = tmp_path / "converted"
    assert main(["convert", str(made[0]), "--selection", str(made[1]), "--output", str(output)]) == 0
    site = browse(made[0], selection=(made[1],))
    ours, converted = charts(site.datasets[0]), charts(browse(output).datasets[0])

    def bars(found: Any) -> dict[str, list[tuple[str, int]]]:
        return {chart.title: sorted((bar.label, bar.count) for bar in chart.bars) for chart in found[1:]}

    expected = bars(converted)
    assert {title: counts for title, counts in bars(ours).items() if title in expected} == expected
    assert len(list(itertools.chain(*expected.values()))) > 20
    page = client_of(site).get("/0/statistics")
    samples = browse(output).datasets[0].index.samples
    assert f"{samples} of 40 rows" in page.text


def brute_force(site: Site, sample: int, region: int, numbers: set[int]) -> set[tuple[int, int]]:
    """Return the regions most similar to a region, of samples of these numbers, by a loop over all of them."""
    dataset = site.datasets[0]
    features = {
        row.number: dataset.read(row).regions.features.astype(np.float64) for row in dataset.index.at(range(40))
    }
    wanted = features[sample][region]
    cosines = {
        (number, at): float(vector @ wanted / np.linalg.norm(vector) / np.linalg.norm(wanted))
        for number in numbers
        for at, vector in enumerate(features[number])
        if (number, at) != (sample, region)
    }
    return set(sorted(cosines, key=lambda place: -cosines[place])[:FOUND])


def test_similar_regions_are_those_of_the_selected_samples_alone(
    made: tuple[Path, Path], browse: Browse, client_of: Callable[[Site], TestClient]
) -> None:
    site = browse(made[0], selection=(made[1],))
    columns = site.datasets[0].index.columns
    selected = set(np.flatnonzero(columns["present"]).tolist())
    for row in site.datasets[0].index.at([min(selected), min(set(range(40)) - selected)]):
        found = site.similar[0].find(row, 0)
        assert {it[1:] for it in found.regions} == brute_force(site, row.number, 0, selected)
        assert found.searched == found.total == int(columns["boxes"][sorted(selected)].sum())
        assert f"all {found.total:,} regions" in client_of(site).get(f"/0/similar/{row.key}/0/found").text


def test_a_selection_of_another_data_set_is_refused(made: tuple[Path, Path], browse: Browse, tmp_path: Path) -> None:
    other = write_small_dataset(tmp_path).directory
    with pytest.raises(RefusedError, match=r"s\.parquet: .*another data set"):
        browse(other, selection=(made[1],))
    assert not (other / ".browse").exists()  # an index of a large data set takes minutes
