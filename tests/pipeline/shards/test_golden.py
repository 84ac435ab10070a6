"""The format does not drift: files committed here are written byte for byte and read value for value."""

from __future__ import annotations

import mmap
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import CorruptShardError
from vilbert.pipeline.shards.dataset import read_dataset
from vilbert.pipeline.shards.failures import read_failures
from vilbert.pipeline.shards.location.layout import data_path, failures_path
from vilbert.pipeline.shards.record import is_done, read_records, records_digest
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.storage.store import open_shard

pages = pytest.mark.skipif(mmap.PAGESIZE != 4096, reason="LMDB lays files out in pages of the machine's size")
NAMES = [
    *("tar", "tar-2", "tar-3"),
    *(pytest.param(name, marks=pages) for name in ("lmdb", "lmdb-2", "lmdb-3")),
]


@pytest.mark.parametrize("name", NAMES)
def test_the_bytes_written_are_those_committed(
    tmp_path: Path, golden: Path, golden_maker: dict[str, Any], name: str
) -> None:
    golden_maker["write_golden"](tmp_path, name)
    files = sorted(path.relative_to(golden / name) for path in (golden / name).rglob("*") if path.is_file())
    data = f"shards/000000.{name.partition('-')[0]}"
    assert [str(path) for path in files] == ["dataset.json", "failures/000000.jsonl", "shards/000000.json", data]
    for path in files:
        assert (tmp_path / path).read_bytes() == (golden / name / path).read_bytes(), path


@pytest.mark.parametrize("storage", ["tar", "lmdb"])
def test_a_data_set_of_format_2_has_neither_objects_nor_classes(
    golden: Path, golden_maker: dict[str, Any], assert_same: Callable[[Sample, Sample], None], storage: str
) -> None:
    directory = golden / f"{storage}-2"
    info = read_dataset(directory)
    assert (info.format, info.top_classes, list(info.fields)) == (2, 0, ["boxes", "features"])
    assert read_records(directory)[0].dropped == info.totals.dropped == {"split": 1}
    with open_shard(data_path(directory, 0, storage)) as reader:
        for read, meant in zip(reader, golden_maker["plain_samples"](), strict=True):
            assert_same(read, meant)
        assert reader[0].regions.features.dtype == "float32"
        assert reader[0].regions.object_ids is reader[0].regions.class_probs is None
    assert main(["verify", str(directory), "--deep"]) == 0


@pytest.mark.parametrize(("name", "dtype"), [("tar-3", "int8"), ("lmdb-3", "uint8")])
def test_a_data_set_of_format_3_has_features_of_one_byte(
    golden: Path, golden_maker: dict[str, Any], assert_same: Callable[[Sample, Sample], None], name: str, dtype: str
) -> None:
    directory = golden / name
    info = read_dataset(directory)
    assert (info.format, info.fields["features"]["dtype"]) == (3, dtype)
    with open_shard(data_path(directory, 0, info.storage)) as reader:
        for read, meant in zip(reader, golden_maker["small_samples"](dtype), strict=True):
            assert_same(read, meant)
            assert read.small is not None
            assert read.small.codes.dtype == dtype
        assert reader[0].regions.features[1, -1] == 1023 / 256
    assert main(["verify", str(directory), "--deep"]) == 0


@pytest.mark.parametrize(("name", "needed", "stated"), [("tar-2", 2, 1), ("tar-3", 3, 1), ("lmdb-3", 3, 2)])
def test_fields_under_a_smaller_number_are_damage(
    tmp_path: Path, golden: Path, name: str, needed: int, stated: int
) -> None:
    shutil.copytree(golden / name, tmp_path / "data")
    path = tmp_path / "data/dataset.json"
    path.write_text(path.read_text().replace(f'"format": {needed},\n  "limit"', f'"format": {stated},\n  "limit"'))
    with pytest.raises(CorruptShardError, match=rf"dataset\.json: format is {stated}, its fields need format {needed}"):
        read_dataset(tmp_path / "data")


@pytest.mark.parametrize("storage", ["tar", "lmdb"])
def test_what_is_committed_reads_as_it_was_meant(
    golden: Path, golden_maker: dict[str, Any], assert_same: Callable[[Sample, Sample], None], storage: str
) -> None:
    directory = golden / storage
    info = read_dataset(directory)
    records = read_records(directory)
    assert is_done(directory, 0)
    assert (info.storage, info.rows, info.shards, info.complete) == (storage, 3, 1, True)
    assert info.records_sha256 == records_digest(records.values())
    assert info.totals.samples == records[0].samples == 2
    assert [row.reason for row in read_failures(failures_path(directory, 0))] == ["truncated"]
    with open_shard(data_path(directory, 0, storage)) as reader:
        assert reader.keys() == ("000000391895", "val_dog_v2_png-7aa9e4d946b9128f")
        for read, meant in zip(reader, golden_maker["golden_samples"](), strict=True):
            assert_same(read, meant)
        assert reader[0].regions.features[1, 0] == 2.0
        assert reader[0].regions.boxes[1].tolist() == [10.5, 20.25, 100.0, 200.0]
        assert reader[1].meta["captions"] == ["naïve 猫"]


def test_the_bytes_of_a_column_are_those_committed(tmp_path: Path, golden: Path, golden_maker: dict[str, Any]) -> None:
    golden_maker["write_golden_column"](tmp_path / "column", golden / "tar")
    names = ["column.json", "shards/000000.json", "shards/000000.tar", "shards/000000.tar.idx"]
    files = sorted(path.relative_to(golden / "column") for path in (golden / "column").rglob("*") if path.is_file())
    assert [str(path) for path in files] == names
    for path in files:
        assert (tmp_path / "column" / path).read_bytes() == (golden / "column" / path).read_bytes(), path
    shutil.copytree(golden / "tar", tmp_path / "data")
    shutil.copytree(golden / "column", tmp_path / "data/columns/dino")
    assert main(["verify", str(tmp_path / "data"), "--deep"]) == 0
