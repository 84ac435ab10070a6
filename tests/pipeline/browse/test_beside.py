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
