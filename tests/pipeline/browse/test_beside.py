"""Two data sets side by side: the same image in both, and how its regions agree."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from starlette.testclient import TestClient

from vilbert.pipeline.browse.beside import compare_regions
from vilbert.pipeline.browse.site import Site
from vilbert.pipeline.shards.sample import Sample

from ..shards.conftest import random_regions, write_small_dataset
from .conftest import Browse

ClientOf = Callable[[Site], TestClient]


def test_regions_agree_with_themselves_in_another_order() -> None:
    regions = random_regions(1, boxes=5)
    order = np.array([3, 1, 4, 0, 2])
    other = dataclasses.replace(regions, **{name: array[order] for name, array in regions.arrays().items()})
    found = compare_regions(regions, other)
    assert found["matched"].startswith("5 of 5 ")
    assert found["mean IoU"].startswith("1.000 ")
    assert found["cosine of matched features"] == "mean 1.0000, least 1.0000"


def test_the_same_image_of_two_data_sets(tmp_path: Path, browse: Browse, client_of: ClientOf) -> None:
    def moved(row: int, sample: Sample) -> Sample:
        return dataclasses.replace(sample, regions=random_regions(row + 100, boxes=7))

    first = write_small_dataset(tmp_path / "a")
    second = write_small_dataset(tmp_path / "b", failed={0: "corrupt"}, change=moved)
    client = client_of(browse(first.directory, second.directory))
    page = client.get("/beside/").text
    assert "image photo.001" in page  # the first that both have
    assert "4 and 7" in page
    assert "manifest_hash" in page
    assert "photo.001" in client.get("/beside/?a=1&b=0&sample=photo.001").text
    assert "no sample has the key" in client.get("/beside/?sample=photo.000").text
    assert client.get("/beside/?a=9").status_code == 400


def page_with_findings(client: TestClient, url: str) -> str:
    """Return the page when the comparison has ended."""
    for _ in range(60):
        text: str = client.get(url).text
        if 'http-equiv="refresh"' not in text:
            return text
    raise AssertionError("the comparison does not end")


def test_the_findings_of_compare_are_on_the_page(tmp_path: Path, browse: Browse, client_of: ClientOf) -> None:
    def shuffled(row: int, sample: Sample) -> Sample:
        features = sample.regions.features[::-1]
        return dataclasses.replace(sample, regions=dataclasses.replace(sample.regions, features=features))

    first = write_small_dataset(tmp_path / "a")
    second = write_small_dataset(tmp_path / "b", change=shuffled)
    client = client_of(browse(first.directory, second.directory, first.directory))
    page = page_with_findings(client, "/beside/")
    assert 'class="verdict different"' in page
    assert "<h3>Features shuffled within an image</h3>" in page
    assert "7 compared, 7 differ" in page
    assert 'href="/beside/?a=0&amp;b=1&amp;sample=photo.' in page
    assert "choose two different data sets" in page_with_findings(client, "/beside/?a=0&b=2")


def test_a_damaged_data_set_is_named_in_place_of_findings(tmp_path: Path, browse: Browse, client_of: ClientOf) -> None:
    first, second = (write_small_dataset(tmp_path / name) for name in "ab")
    path = second.data_file(0)
    path.write_bytes(path.read_bytes()[:-1000])
    page = page_with_findings(client_of(browse(first.directory, second.directory)), "/beside/")
    assert f'class="problem">{path}' in page
