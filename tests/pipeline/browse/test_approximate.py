"""The approximate index finds what the exact search finds, is resumed, and is not read from the data set."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from vilbert.pipeline.browse import approximate
from vilbert.pipeline.browse.site import Site
from vilbert.pipeline.cli import main
from vilbert.pipeline.shards.open_dataset import open_dataset
from vilbert.pipeline.shards.sample import Sample

from ..shards.conftest import FEATURE_DIM, SmallDataset, random_regions, write_small_dataset
from .conftest import Browse

pytest.importorskip("faiss", reason="faiss-cpu is not installed")
ROWS, BOXES = 60, 40
LIMIT = "vilbert.pipeline.browse.similar.MAX_REGIONS"


@pytest.fixture
def clustered(tmp_path: Path) -> SmallDataset:
    """2,400 regions around 30 directions, as the features of a detector lie around its classes."""
    centres = np.random.default_rng(0).standard_normal((30, FEATURE_DIM)) * 3

    def near(row: int, sample: Sample) -> Sample:
        draw = np.random.default_rng(row)
        features = centres[draw.integers(0, 30, BOXES)] + draw.standard_normal((BOXES, FEATURE_DIM))
        regions = dataclasses.replace(random_regions(row, boxes=BOXES), features=features.astype(np.float16))
        return dataclasses.replace(sample, regions=regions)

    return write_small_dataset(tmp_path, rows=ROWS, shard_size=6, failed={}, change=near)


def approximate_site(browse: Browse, made: SmallDataset, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.setattr(LIMIT, 100)
    site = browse(made.directory)
    index = site.similar[0].approximate
    assert index is not None
    index.wait()
    assert index.problem is None
    return site


def test_it_finds_nearly_all_that_the_exact_search_finds(
    clustered: SmallDataset, browse: Browse, client_of: Callable[[Site], TestClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    exact = browse(clustered.directory)
    samples = exact.datasets[0].index.at(range(0, ROWS, 3))
    expected = [{it[1:] for it in exact.similar[0].find(sample, 0).regions[:10]} for sample in samples]
    assert "Exact: all 2,400 regions" in client_of(exact).get(f"/0/similar/{samples[0].key}/0/found").text
    site = approximate_site(browse, clustered, monkeypatch)
    recalls = []
    for sample, nearest in zip(samples, expected, strict=True):
        found = site.similar[0].find(sample, 0)
        assert found.approximate
        assert [it.cosine for it in found.regions] == sorted((it.cosine for it in found.regions), reverse=True)
        recalls.append(len(nearest & {it[1:] for it in found.regions[:10]}) / 10)
    assert np.mean(recalls) >= 0.95, recalls
    assert (
        "Approximate: an index of all 2,400 regions" in client_of(site).get(f"/0/similar/{samples[0].key}/0/found").text
    )


def test_regions_of_samples_that_are_not_selected_are_not_found(
    clustered: SmallDataset, browse: Browse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chosen, directory = tmp_path / "some.parquet", clustered.directory
    assert main(["select", str(directory), "--where", "split == 'val'", "--output", str(chosen)]) == 0
    with open_dataset(directory) as dataset:
        selected = [number for number, sample in enumerate(dataset) if sample.meta["split"] == "val"]
    exact = browse(directory, selection=(chosen,))
    sample = exact.datasets[0].index.at(selected[:1])[0]
    expected = exact.similar[0].find(sample, 0)
    assert {it.number for it in expected.regions} <= set(selected)
    monkeypatch.setattr(LIMIT, 100)
    site = browse(directory, selection=(chosen,))
    index = site.similar[0].approximate
    assert index is not None
    with monkeypatch.context() as building:
        building.setattr(index, "ready", lambda: False)
        partial = site.similar[0].find(sample, 0)
    assert partial.total == BOXES * len(selected)
    assert partial.stride == -(-partial.total // 100)
    assert {it.number for it in partial.regions} == set(selected[:: partial.stride])
    index.wait()
    found = site.similar[0].find(sample, 0)
    assert found.approximate
    assert {it.number for it in found.regions} <= set(selected)
    nearest = [{it[1:] for it in each.regions[:10]} for each in (found, expected)]
    assert len(nearest[0] & nearest[1]) >= 9


def test_an_interrupted_build_is_resumed_and_a_finished_one_is_opened(
    clustered: SmallDataset, browse: Browse, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    blocks = approximate.ApproximateIndex._blocks

    def until_shard_5(self: Any, shard: int, places: range) -> Any:
        if shard == 5 and 5 in read:
            raise OSError("interrupted")
        read.append(shard)
        return blocks(self, shard, places)

    monkeypatch.setattr(LIMIT, 100)
    monkeypatch.setattr(approximate.ApproximateIndex, "_blocks", until_shard_5)
    index = browse(clustered.directory).similar[0].approximate
    assert index is not None
    index.wait()
    assert index.problem == "interrupted"
    del read[:]
    index = approximate_site(browse, clustered, monkeypatch).similar[0].approximate
    assert index is not None
    assert read == [5, 6, 7, 8, 9]
    del read[:]
    approximate_site(browse, clustered, monkeypatch)
    assert read == []
    assert not list(clustered.directory.rglob("*.faiss"))


def test_a_damaged_file_is_built_again(
    clustered: SmallDataset, browse: Browse, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = approximate_site(browse, clustered, monkeypatch)
    approximate.index_path(site.datasets[0]).write_bytes(b"not an index" * 100)
    again = approximate_site(browse, clustered, monkeypatch)
    assert again.similar[0].find(again.datasets[0].index.at([0])[0], 0).approximate


INTERRUPTED = """
import sys, time
from pathlib import Path
from vilbert.pipeline.browse import similar
from vilbert.pipeline.browse.approximate import ApproximateIndex
from vilbert.pipeline.browse.command import BrowseSettings
from vilbert.pipeline.browse.site import Site

similar.MAX_REGIONS = 100
ApproximateIndex._build = lambda self: time.sleep(60)
with Site.open(BrowseSettings(directories=(Path(sys.argv[1]),))) as site:
    site.similar[0].approximate.ready()
"""


def test_the_server_ends_with_130_while_the_index_is_built(clustered: SmallDataset) -> None:
    """An ordinary exit while FAISS works in a thread can crash: status 139."""
    command = [sys.executable, "-c", INTERRUPTED, str(clustered.directory)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert done.returncode == 130, done.stderr
