"""Small data sets to convert, and what is in a data set."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vilbert.pipeline.rebuild.convert.command import convert
from vilbert.pipeline.rebuild.convert.settings import ConvertSettings
from vilbert.pipeline.shards.checks.verify import examine
from vilbert.pipeline.shards.open_dataset import open_dataset
from vilbert.pipeline.shards.sample import Sample

from ...shards.conftest import write_small_dataset


@pytest.fixture(autouse=True)
def _without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def source(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a data set under a name and returns its folder; see `write_small_dataset`."""

    def write(name: str, **options: Any) -> Path:
        (tmp_path / name).mkdir()
        return write_small_dataset(tmp_path / name, **options).directory

    return write


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """A function that converts sources into a folder of this name, and proves the result with `verify --deep`."""

    def convert_into(name: str, *sources: Path, status: int = 0, **options: Any) -> Path:
        output = tmp_path / name
        assert convert(ConvertSettings(sources=sources, output=output, **options)) == status
        assert examine(output, deep=True).findings == ()
        return output

    return convert_into


def samples(directory: Path) -> dict[str, Sample]:
    """Return the samples of a data set by image id, in order."""
    with open_dataset(directory) as dataset:
        return {sample.meta["image_id"]: sample for sample in dataset}


def files(directory: Path) -> dict[str, bytes]:
    """Return every file of a data set but those that tell of runs."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name not in (".lock", ".run.json", ".run.log")
    }
