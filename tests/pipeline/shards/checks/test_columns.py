"""`vilbert verify` finds columns that are damaged, unfinished, or of other samples."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from vilbert.pipeline.shards.columns.add import add_column
from vilbert.pipeline.shards.columns.values_file import open_values
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.open_dataset import open_dataset
from vilbert.pipeline.shards.sample import Sample

from ..columns.made import make_region_column
from ..conftest import write_small_dataset

MakeDataset = Callable[..., Any]


@pytest.fixture
def with_column(make_dataset: MakeDataset, tmp_path: Path) -> Any:
    """A data set with a column `dino` of two numbers for each region."""
    data = make_dataset()
    with open_dataset(data.directory) as samples:
        ids = [sample.meta["image_id"] for sample in samples]
        np.save(tmp_path / "dino.npy", np.ones((len(ids), len(samples[0].regions), 2), np.float16))
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    values = open_values(tmp_path / "dino.npy", ids=tmp_path / "ids.json", id_column="", value_column=None)
    assert add_column(LocalFolder(data.directory), "dino", values, missing="error").shape == ("N", 2)
    return data


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


def change_document(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("damage", "code", "deep"),
    [
        (lambda d: flip(d / "shards/000001.tar", 645), "column-damaged", True),  # in an array
        (lambda d: flip(d / "shards/000001.tar", 3), "column-damaged", False),  # in a key
        (lambda d: flip(d / "shards/000001.json", 30), "column-damaged", False),
        (lambda d: (d / "shards/000001.tar").write_bytes(b""), "column-damaged", False),
        (lambda d: (d / "shards/000001.tar").unlink(), "column-damaged", False),
        (lambda d: (d / "shards/000002.json").unlink(), "column-damaged", False),
        (lambda d: shutil.copy(d / "shards/000000.tar", d / "shards/000001.tar"), "column-damaged", False),
        (lambda d: flip(d / "shards/000001.tar.idx", 9), "column-damaged", False),
        (lambda d: (d / "column.json").unlink(), "column-incomplete", False),
        (lambda d: (d / "column.json").write_text("{"), "column-damaged", False),
        (lambda d: change_document(d / "column.json", shape=["N", 3]), "column-damaged", True),
        (lambda d: change_document(d / "column.json", shape=[[], {}]), "column-damaged", False),
        (lambda d: change_document(d / "column.json", base="0" * 64), "column-stale", False),
    ],
)
def test_damage_is_found(with_column: Any, damage: Callable[[Path], object], code: str, deep: bool) -> None:
    assert with_column.findings(deep=True) == ()
    damage(with_column.directory / "columns/dino")
    found = with_column.findings(deep=deep)
    assert {finding.code for finding in found} == {code}
    assert all(finding.where.startswith("columns/dino/") for finding in found)
    assert all("vilbert column drop" in finding.remedy for finding in found)
    if deep:
        assert with_column.findings() == ()


@pytest.fixture
def with_regions(make_dataset: MakeDataset, tmp_path: Path) -> Any:
    """A data set with a column `second` of regions, said to be at its own boxes, which they are not."""
    data = make_dataset()
    make_regions(data, tmp_path / "regions")
    return data


def make_regions(data: Any, folder: Path, **options: Any) -> None:
    folder.mkdir()
    regions = write_small_dataset(folder, **options)
    make_region_column(data.directory, regions.directory, "second")


@pytest.mark.parametrize(
    ("damage", "deep", "said"),
    [
        (lambda d: flip(d / "shards/000001.tar", 700), True, "SHA-256"),
        (lambda d: flip(d / "shards/000001.tar", 3), False, "header"),
        (lambda d: (d / "dataset.json").unlink(), False, "dataset.json of its regions is missing"),
        (lambda d: (d / "dataset.json").write_text("[]"), False, "is not a JSON object"),
        (lambda d: change_document(d / "column.json", format=1), False, "boxes is not a field"),
        (lambda d: change_document(d / "column.json", boxes="mine"), False, "boxes is 'mine'"),
        (lambda d: change_document(d / "column.json", member="npy"), False, "format is 2 with member npy"),
        (lambda d: change_document(d / "column.json", shape=["N", 3]), False, "describes others"),
        (lambda d: change_document(d / "dataset.json", class_names=["background"]), True, "outside"),
    ],
)
def test_damaged_regions_are_found(with_regions: Any, damage: Callable[[Path], object], deep: bool, said: str) -> None:
    assert with_regions.findings(deep=True) == ()
    damage(with_regions.directory / "columns/second")
    found = with_regions.findings(deep=deep)
    assert {finding.code for finding in found} == {"column-damaged"}
    assert said in found[0].what
    assert "vilbert column drop" in found[0].remedy


def test_regions_are_joined_with_the_samples(make_dataset: MakeDataset, tmp_path: Path) -> None:
    """Images of other sizes or bytes, and boxes that are said to be those of the data set, are found."""
    data = make_dataset()

    def change(row: int, sample: Sample) -> Sample:
        if row == 3:
            regions = replace(sample.regions, width=sample.regions.width + 1)
            return replace(sample, regions=regions)
        if row == 4:
            return replace(sample, meta={**sample.meta, "sha256": "0" * 64})
        return replace(sample, regions=replace(sample.regions, boxes=sample.regions.boxes / 2)) if row == 7 else sample

    make_regions(data, tmp_path / "regions", change=change)
    found = sorted(finding.what for finding in data.findings(deep=True))
    assert [(what[:13], what.partition(" is ")[2]) for what in found] == [
        ("key photo_003", "of 121x90 pixels, the data set's image has 120x90"),
        ("key photo_004", "of an image with another sha256 than the data set's"),
    ]
    change_document(data.directory / "columns/second/column.json", boxes="base")
    found = [finding.what for finding in data.findings(deep=True) if "photo_007" in finding.what]
    assert [what.partition(" has ")[2] for what in found] == ["other boxes than the data set"]


def test_a_column_of_another_data_set_is_found(with_column: Any, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    shutil.move(with_column.directory / "columns", kept)
    shutil.rmtree(with_column.directory)
    other = write_small_dataset(tmp_path, failed={})
    shutil.move(kept, other.directory / "columns")
    assert other.codes() == {"column-stale"}
