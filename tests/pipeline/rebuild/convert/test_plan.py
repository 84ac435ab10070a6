"""The plan of a conversion: every row once, whatever the order, and memory that does not grow with the rows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.convert.duplicates import KeyHashes
from vilbert.pipeline.rebuild.convert.joined import build_joined
from vilbert.pipeline.rebuild.convert.plan import (
    Plan,
    PlannedRows,
    find_plan,
    make_plan,
    order_rows,
    read_plan,
    remove_plan,
)
from vilbert.pipeline.shards.location.folder import LocalFolder


@pytest.mark.parametrize("shard_size", [1, 3, 7, 100])
@pytest.mark.parametrize("seed", [None, 0, 1])
@pytest.mark.parametrize("by_split", [False, True])
def test_every_row_has_one_place_and_shards_are_full(
    tmp_path: Path, shard_size: int, seed: int | None, by_split: bool
) -> None:
    draw = np.random.default_rng(shard_size)
    codes = draw.integers(0, 3, 100).astype(np.uint8)
    splits = draw.integers(0, 3, 100).astype(np.uint16) if by_split else None
    names = ["val", "train", ""]
    starts = order_rows(
        tmp_path / "rows.bin", codes, shard_size=shard_size, shuffle_seed=seed, splits=splits, split_names=names
    )
    entries = np.fromfile(tmp_path / "rows.bin", np.int64)
    np.testing.assert_array_equal(np.sort(entries >> 8), np.arange(100))
    np.testing.assert_array_equal(entries & 0xFF, codes[entries >> 8])
    assert starts[0] == 0
    shards = [entries[start:stop] for start, stop in zip(starts, (*starts[1:], 100), strict=True)]
    kept = [shard[shard & 0xFF == 0] >> 8 for shard in shards]
    assert all(len(rows) for rows in kept)
    if splits is None:
        assert all(len(rows) == shard_size for rows in kept[:-1])
    else:
        of_shard = [{names[splits[row]] for row in rows} for rows in kept]
        assert all(len(found) == 1 for found in of_shard)
        order = [next(iter(found)) for found in of_shard]
        assert order == sorted(order)
    if seed is None and splits is None:
        np.testing.assert_array_equal(entries >> 8, np.arange(100))


def test_shuffled_orders_are_pinned(tmp_path: Path) -> None:
    order_rows(tmp_path / "rows.bin", np.zeros(8, np.uint8), shard_size=3, shuffle_seed=5)
    assert (np.fromfile(tmp_path / "rows.bin", np.int64) >> 8).tolist() == [7, 4, 3, 5, 6, 2, 0, 1]


def test_repeated_keys_are_those_of_a_dictionary(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    keys = [f"key{number}" for number in draw.integers(0, 700, 1000)]
    hashes = KeyHashes(tmp_path / "keys")
    for start in range(0, 1000, 300):
        some = keys[start : start + 300]
        hashes.add(some, np.arange(start, start + len(some)))
    dropped = {3, 500}
    first: dict[str, int] = {}
    expected = {}
    for row, key in enumerate(keys):
        if row not in dropped and first.setdefault(key, row) != row:
            expected[row] = first[key]
    found = {}
    for rows, firsts in hashes.repeated(lambda rows: ~np.isin(rows, list(dropped))):
        found |= dict(zip(rows.tolist(), firsts.tolist(), strict=True))
    assert found == expected
    assert list(tmp_path.iterdir()) == []


def write(folder: Path) -> Plan:
    """Write a small plan."""

    def build(home: Path) -> Plan:
        build_joined(home / "joined.sqlite", (), None, ())
        starts = order_rows(home / "rows.bin", np.array([0, 2, 0, 0], np.uint8), shard_size=2)
        return Plan(request="0" * 64, rows=4, kept=3, dropped={"ids": 1}, starts=starts)

    return make_plan(LocalFolder(folder), build)


def test_a_plan_is_found_by_its_request_and_goes_without_a_trace(tmp_path: Path) -> None:
    plan = write(tmp_path)
    assert find_plan(LocalFolder(tmp_path), "0" * 64) == plan
    assert find_plan(LocalFolder(tmp_path), "1" * 64) is None
    planned = PlannedRows(tmp_path)
    part = planned.part(1, 4)
    assert (part.places.tolist(), part.rows.tolist(), part.dropped) == ([2, 3], [2, 3], {"ids": 1})
    assert planned.spread(10) == [0, 2, 3]
    planned.close()
    remove_plan(LocalFolder(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("plan.json", b"{"),
        ("plan.json", b"[]"),
        ("plan.json", b'{"request":"x","rows":4,"kept":3,"dropped":{},"starts":[0],"base_rows":0}'),
        ("rows.bin", b""),
        ("rows.bin", bytes(8 * 3)),
    ],
)
def test_a_damaged_plan_is_refused_and_says_what_to_delete(tmp_path: Path, name: str, content: bytes) -> None:
    write(tmp_path)
    path = tmp_path / ".plan" / name
    path.write_bytes(content)
    with pytest.raises(ShardError, match=r"delete .*\.plan and run the"):
        PlannedRows(tmp_path)
    if name == "plan.json":
        with pytest.raises(ShardError):
            read_plan(tmp_path)


MANY = """
import sys, resource
from pathlib import Path
import numpy as np
from vilbert.pipeline.rebuild.convert import planning
from vilbert.pipeline.rebuild.convert.settings import ConvertSettings
from vilbert.pipeline.rebuild.source import Scanned, SourceDescription

ROWS, HOME = int(sys.argv[1]), Path(sys.argv[2])

class Many:
    description = SourceDescription(format="many", fields={})
    rows = ROWS
    def read(self, start, stop):
        raise AssertionError("arrays are not needed")
    def scan(self, start, stop, *, metadata):
        for row in range(start, stop):
            yield Scanned(f"{row}", {"image_id": f"{row}", "split": "val" if row % 10 == 3 else "train"})
    def close(self):
        pass
    def __enter__(self):
        return self
    def __exit__(self, *_):
        pass

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
settings = ConvertSettings(sources=(Path("many"),), output=HOME, split=("train",), deduplicate="id")
plan = planning.plan_rows(HOME, [Many()], settings, "0" * 64)
assert (plan.kept, plan.dropped) == (ROWS * 9 // 10, {"split": ROWS // 10})
assert len(plan.starts) == -(-plan.kept // 1000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def planned_in(rows: int, folder: Path) -> int:
    """Plan so many rows in a process of its own and return by how many kB its memory grew."""
    folder.mkdir()
    ended = subprocess.run(
        [sys.executable, "-c", MANY, str(rows), str(folder)], capture_output=True, text=True, check=True
    )
    return int(ended.stdout)


@pytest.mark.slow
def test_ten_million_rows_are_planned_in_bounded_memory(tmp_path: Path) -> None:
    few, many = planned_in(100_000, tmp_path / "few"), planned_in(10_000_000, tmp_path / "many")
    # The plan itself is mapped: 8 bytes a row, which the kernel may write back and take away.
    assert many - few < 10_000_000 * 9 / 1024 + 60_000
