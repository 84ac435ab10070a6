"""The file of a selection: what is written is read, and whatever is wrong with a file is refused by its name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shards.dataset import DatasetInfo, read_dataset
from vilbert.pipeline.shards.selection.file import (
    FOOTER,
    SelectionFile,
    _selection,
    selection_digest,
    selection_schema,
    write_selection,
)
from vilbert.pipeline.shards.selection.match import open_selections, read_selection

SIZES = [4, 0, 3]
PLACES = [(0, 1), (0, 3), (2, 0), (2, 2)]


def table(places: list[tuple[int, int]], splits: list[str] | None = None) -> pa.Table:
    keys = [f"k{shard}_{place}" for shard, place in places]
    splits = splits or ["val" if place == 0 else "train" for _, place in places]
    columns = [keys, keys, splits, [shard for shard, _ in places], [place for _, place in places]]
    arrays = [pa.array(values, field.type) for values, field in zip(columns, selection_schema(), strict=True)]
    return pa.table(arrays, schema=selection_schema())


@pytest.fixture
def info(golden: Path) -> DatasetInfo:
    return read_dataset(golden / "tar-2")


def write(path: Path, info: DatasetInfo, places: list[tuple[int, int]] = PLACES) -> SelectionFile:
    return write_selection(path, info, [table(places)], {"where": "width > 3"})


def test_what_is_written_is_read(info: DatasetInfo, tmp_path: Path) -> None:
    file = write(tmp_path / "sub" / "s.parquet", info)
    assert (file.records_sha256, file.samples, file.how) == (info.records_sha256, 4, {"where": "width > 3"})
    found = file.load(SIZES)
    assert [found.of_shard(shard).tolist() for shard in range(3)] == [[1, 3], [], [0, 2]]
    assert found.counts(None).tolist() == [2, 0, 2]
    assert found.counts("val").tolist() == [0, 0, 1]
    assert found.counts("test").tolist() == [0, 0, 0]
    assert found.by_split() == {"train": 3, "val": 1}
    assert pq.read_table(file.path).column("image_id").to_pylist() == ["k0_1", "k0_3", "k2_0", "k2_2"]
    assert [path.name for path in file.path.parent.iterdir()] == ["s.parquet"]


def test_the_digest_is_of_the_samples_and_not_of_the_file(info: DatasetInfo, tmp_path: Path) -> None:
    first = write(tmp_path / "a.parquet", info)
    halves = [table(PLACES[:2]), table(PLACES[2:])]
    second = write_selection(tmp_path / "b.parquet", info, halves, {"where": "height > 1"})
    assert first.digest == second.digest
    assert write(tmp_path / "c.parquet", info, PLACES[1:]).digest != first.digest


def test_an_empty_selection_is_refused_and_leaves_the_old_file(info: DatasetInfo, tmp_path: Path) -> None:
    before = write(tmp_path / "s.parquet", info).path.read_bytes()
    with pytest.raises(RefusedError, match="no sample is selected"):
        write(tmp_path / "s.parquet", info, [])
    assert (tmp_path / "s.parquet").read_bytes() == before


@given(data=st.data())
def test_counts_are_those_of_the_rows(data: st.DataObject) -> None:
    sizes = data.draw(st.lists(st.integers(0, 6), min_size=1, max_size=5).filter(any))
    every = [(shard, place) for shard, size in enumerate(sizes) for place in range(size)]
    chosen = sorted(data.draw(st.sets(st.sampled_from(every), min_size=1)))
    splits = data.draw(st.lists(st.sampled_from(["", "train", "é"]), min_size=len(chosen), max_size=len(chosen)))
    names = tuple(dict.fromkeys(splits))
    shards, places = (np.array(column, np.int64) for column in zip(*chosen, strict=True))
    codes = np.array([names.index(split) for split in splits], np.uint32)
    found = _selection(shards, places, codes, names, np.array(sizes, np.int64))
    for split in (None, *names):
        expected = [
            sum(s == shard and split in (None, its) for (s, _), its in zip(chosen, splits, strict=True))
            for shard in range(len(sizes))
        ]
        assert found.counts(split).tolist() == expected
    assert [(s, p) for s in range(len(sizes)) for p in found.of_shard(s).tolist()] == chosen


def forge(path: Path, rows: pa.Table, **changes: Any) -> None:
    """Write a file whose footer says what is asked for."""
    document = json.loads(pq.read_metadata(path).metadata[FOOTER])
    marked = rows.replace_schema_metadata({FOOTER: json.dumps({**document, **changes}).encode()})
    pq.write_table(marked, path)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda path: path.unlink(), "no such file"),
        (lambda path: path.write_bytes(b""), "damaged"),
        (lambda path: path.write_bytes(b"\xff" * 100), "damaged"),
        (lambda path: path.write_bytes(path.read_bytes()[:-30]), "damaged"),
        (lambda path: pq.write_table(table(PLACES), path), "is not a selection"),
        (lambda path: forge(path, table(PLACES), format=2), "format 2"),
        (lambda path: forge(path, table(PLACES), samples="4"), "damaged"),
        (lambda path: forge(path, table(PLACES), samples=5), "does not match"),
        (lambda path: forge(path, table(PLACES[:2])), "does not match"),
        (lambda path: forge(path, table(PLACES).drop_columns("place")), "does not match"),
        (lambda path: forge(path, table([(0, 1), (0, 3), (2, 0), (2, 1)])), "not the ones it was written with"),
        (lambda path: forge(path, table(PLACES, ["test"] * 4)), "not the ones it was written with"),
        (lambda path: forge(path, table([(0, 1), (0, 3), (2, 0), (3, 0)])), "a shard that the data set"),
        (lambda path: forge(path, table([(0, 1), (0, 4), (2, 0), (2, 1)])), "a sample that its shard"),
        (lambda path: forge(path, table([(0, -1), (0, 3), (2, 0), (2, 2)])), "a sample that its shard"),
        (lambda path: forge(path, table([(0, 3), (0, 1), (2, 0), (2, 2)])), "not in the order"),
        (lambda path: forge(path, table([(0, 1), (0, 1), (2, 0), (2, 2)])), "not in the order"),
        (lambda path: forge(path, table([(0, 1)] * 9), samples=9), "the data set 7"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(
    info: DatasetInfo, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    path = write(tmp_path / "s.parquet", info).path
    spoil(path)
    with pytest.raises(RefusedError, match=rf"--selection .*s\.parquet: .*{said}"):
        SelectionFile.open(path).load(SIZES)


@pytest.mark.parametrize("step", [1, 7])
def test_no_flipped_byte_selects_other_samples(info: DatasetInfo, tmp_path: Path, step: int) -> None:
    path = write(tmp_path / "s.parquet", info).path
    data = path.read_bytes()
    expected = SelectionFile.open(path).load(SIZES)
    for position in range(step, len(data), 29):
        path.write_bytes(data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :])
        try:
            found = SelectionFile.open(path).load(SIZES)
        except RefusedError:
            continue
        assert (found.places.tolist(), found.by_split()) == (expected.places.tolist(), expected.by_split())


def test_selections_find_their_data_sets(info: DatasetInfo, tmp_path: Path) -> None:
    path = write(tmp_path / "s.parquet", info).path
    assert set(open_selections([path])) == {info.records_sha256}
    with pytest.raises(RefusedError, match="same data set"):
        open_selections([path, path])
    with pytest.raises(RefusedError, match="belongs to another data set than DIR"):
        read_selection(path, "0" * 64, SIZES, "DIR")
    assert read_selection(None, None, [], "DIR") is None


def test_the_digest_separates_its_parts() -> None:
    one = selection_digest(np.array([0, 1]), np.array([2, 3]), ["a", "b"])
    assert one != selection_digest(np.array([0, 1]), np.array([2, 3]), ["b", "a"])
    assert one != selection_digest(np.array([0, 1]), np.array([3, 3]), ["a", "b"])
    assert one == selection_digest(np.array([0, 1], np.int32), np.array([2, 3], np.uint8), ["a", "b"])
