"""What a data set yields is what its records named when it was opened."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vilbert.pipeline.errors import CorruptShardError
from vilbert.pipeline.rebuild.dataset_source import DatasetSource
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.storage.raw import RawRun

from ..shards.conftest import write_small_dataset


def recaptioned(row: int, sample: Sample) -> Sample:
    return dataclasses.replace(sample, meta={**sample.meta, "captions": ["another text"]})


@pytest.mark.parametrize("rows", [4, 20])  # few samples come from the mapped file, many from one pass over it
@pytest.mark.parametrize("method", ["read", "read_raw", "read_runs"])
def test_a_shard_that_is_replaced_with_its_record_is_refused(tmp_path: Path, rows: int, method: str) -> None:
    was, now = (
        write_small_dataset(tmp_path, rows=rows, shard_size=rows, failed={}, change=change).directory.rename(
            tmp_path / name
        )
        for name, change in (("was", lambda row, sample: sample), ("now", recaptioned))
    )
    with DatasetSource(was) as source:
        assert [one.key for one in source.scan(0, 1, metadata=False)] == [next(iter(source.read(0, 1))).key]
    with DatasetSource(was) as source:
        shutil.copytree(now / "shards", was / "shards", dirs_exist_ok=True)
        with pytest.raises(CorruptShardError, match=r"000000\.tar: its SHA-256 is"):
            read_all(getattr(source, method)(0, rows))


def read_all(outcomes: Iterator[Any]) -> None:
    for outcome in outcomes:
        if isinstance(outcome, RawRun):
            assert sum(map(len, outcome.chunks))
