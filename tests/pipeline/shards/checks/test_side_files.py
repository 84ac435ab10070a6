"""`vilbert verify` finds side files that do not belong to the shards, and no others."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from vilbert.pipeline.shards.index.names import ENERGON_SQLITE, INDEX_FILE
from vilbert.pipeline.shards.index.write import index_dataset
from vilbert.pipeline.shards.location.folder import LocalFolder

MakeDataset = Callable[..., Any]


def change_parquet(directory: Path, change: Callable[[Any], Any]) -> None:
    table = pq.read_table(directory / INDEX_FILE)
    pq.write_table(change(table), directory / INDEX_FILE)


def run_sql(directory: Path, statement: str) -> None:
    with sqlite3.connect(directory / ENERGON_SQLITE) as database:
        database.execute(statement)


def change_json(path: Path, change: Callable[[Any], object]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def swap_last_rows(table: Any) -> Any:
    return table.take([*range(table.num_rows - 2), table.num_rows - 1, table.num_rows - 2])


def test_side_files_pass(dataset: Any) -> None:
    index_dataset(LocalFolder(dataset.directory))
    assert dataset.findings() == ()
    assert dataset.findings(deep=True) == ()


def test_those_of_an_older_state_are_found(make_dataset: MakeDataset, tmp_path: Path) -> None:
    data = make_dataset()
    index_dataset(LocalFolder(data.directory))
    old = tmp_path / "old"
    shutil.copytree(data.directory, old)
    shutil.rmtree(data.directory)
    newer = make_dataset(failed={2: "corrupt"})
    for path in old.rglob("*"):
        target = newer.directory / path.relative_to(old)
        if path.is_file() and not target.exists():
            target.parent.mkdir(exist_ok=True)
            shutil.copy(path, target)
    findings = newer.findings()
    assert {finding.code for finding in findings} == {"stale-side-file"}
    stale = {"README.md", "croissant.json", "shardindex.json", INDEX_FILE, ENERGON_SQLITE, ".nv-meta/.info.json"}
    assert {finding.where for finding in findings} == stale | {"shards/000001.tar.idx"}
    assert all(f"vilbert index {newer.directory}" in finding.remedy for finding in findings)
    index_dataset(LocalFolder(newer.directory))
    assert newer.findings(deep=True) == ()


@pytest.mark.parametrize(
    ("damage", "where", "deep"),
    [
        (lambda d: (d / INDEX_FILE).write_bytes(b"PAR1" + bytes(40)), INDEX_FILE, False),
        (lambda d: change_parquet(d, lambda table: table.slice(1)), INDEX_FILE, False),
        (lambda d: change_parquet(d, lambda table: table.drop(["sha256"])), INDEX_FILE, False),
        (lambda d: change_parquet(d, lambda table: table.replace_schema_metadata({})), INDEX_FILE, False),
        (lambda d: change_parquet(d, swap_last_rows), INDEX_FILE, True),
        (lambda d: (d / ENERGON_SQLITE).write_bytes(b"no database" * 99), ENERGON_SQLITE, False),
        (lambda d: run_sql(d, "DROP TABLE sample_parts"), ENERGON_SQLITE, False),
        (lambda d: run_sql(d, "DELETE FROM samples WHERE sample_index = 0"), ENERGON_SQLITE, False),
        (lambda d: run_sql(d, "UPDATE samples SET byte_offset = byte_offset + 512"), ENERGON_SQLITE, True),
        (
            lambda d: run_sql(d, "UPDATE sample_parts SET part_name = x'00'"),
            ENERGON_SQLITE,
            True,
        ),
        (lambda d: (d / "shards/000001.tar.idx").write_bytes(bytes(16)), "shards/000001.tar.idx", False),
        (lambda d: (d / "shardindex.json").write_bytes(b"\xff"), "shardindex.json", False),
        (lambda d: (d / "shardindex.json").write_text("[" * 5000), "shardindex.json", False),
        (lambda d: change_json(d / "shardindex.json", lambda x: x["shardlist"].pop()), "shardindex.json", False),
        (lambda d: change_json(d / ".nv-meta/.info.json", lambda x: x.clear()), ".nv-meta/.info.json", False),
    ],
)
def test_damaged_ones_are_found(
    make_dataset: MakeDataset, damage: Callable[[Path], object], where: str, deep: bool
) -> None:
    data = make_dataset()
    index_dataset(LocalFolder(data.directory))
    damage(data.directory)
    found = data.findings(deep=deep)
    assert {(finding.code, finding.where) for finding in found} - {
        ("stale-side-file", "croissant.json")  # it has the SHA-256 of index.parquet
    } == {("stale-side-file", where)}
    if deep:
        assert where not in {finding.where for finding in data.findings()}


def test_files_of_other_tools_are_known_and_others_are_not(make_dataset: MakeDataset) -> None:
    data = make_dataset()
    for name in ("shards/000000.idx", "README.md", ".nv-meta/join_index.bin", "shards/000003.tar.idx", "shards/0.idx"):
        (data.directory / name).parent.mkdir(exist_ok=True)
        (data.directory / name).write_text("of another tool")
    assert [(finding.code, finding.where) for finding in data.findings()] == [
        ("foreign-file", "shards/0.idx"),
        ("foreign-file", "shards/000003.tar.idx"),
    ]
