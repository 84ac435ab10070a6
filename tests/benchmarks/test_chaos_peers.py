"""What is counted as lost, doubled and left behind, on outputs made by hand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks.chaos_peers.content import Difference, compare, read_content
from benchmarks.chaos_peers.kills import MARK, kill_processes
from tests.pipeline.shards.conftest import write_small_dataset

IDS = ("a", "b", "c", "d")


def write(output: Path, *files: tuple[str, tuple[str, ...]], value: bytes = b"1") -> Path:
    """Write Parquet files with rows of these image IDs."""
    (output / "data").mkdir(parents=True)
    for name, ids in files:
        rows = {"image_id": list(ids), "features": [value] * len(ids), "boxes": [b"2"] * len(ids)}
        pq.write_table(pa.table(rows), output / "data" / name)
    return output


@pytest.fixture
def expected(tmp_path: Path) -> Path:
    """What an undisturbed run leaves, the state of its checkpointing included."""
    output = write(tmp_path / "whole", ("0.parquet", IDS[:2]), ("1.parquet", IDS[2:]))
    (output / "checkpoint").mkdir()
    (output / "checkpoint" / "ids").write_text("a b c d")
    return output


def difference(output: Path, expected: Path) -> Difference:
    return compare(read_content(output), read_content(expected))


def test_the_same_samples_in_files_of_other_names_are_the_same(tmp_path: Path, expected: Path) -> None:
    output = write(tmp_path / "again", ("x.parquet", IDS[2:]), ("y.parquet", IDS[:2]))
    assert difference(output, expected) == Difference(lost=0, doubled=0, orphans=0, same_samples=True, same_bytes=True)


def test_lost_and_doubled_images_are_counted(tmp_path: Path, expected: Path) -> None:
    output = write(tmp_path / "again", ("0.parquet", ("a", "b", "b")), ("1.parquet", ("b", "d")))
    assert difference(output, expected) == Difference(
        lost=1, doubled=2, orphans=0, same_samples=False, same_bytes=False
    )


def test_other_features_are_other_samples(tmp_path: Path, expected: Path) -> None:
    output = write(tmp_path / "again", ("0.parquet", IDS[:2]), ("1.parquet", IDS[2:]), value=b"3")
    found = difference(output, expected)
    assert (found.lost, found.doubled, found.same_samples) == (0, 0, False)


def test_damaged_and_temporary_files_are_left_behind_but_not_the_state_of_checkpoints(
    tmp_path: Path, expected: Path
) -> None:
    output = write(tmp_path / "again", ("0.parquet", IDS[:2]), ("1.parquet", IDS[2:]))
    (output / "checkpoint").mkdir()
    (output / "checkpoint" / "ids-2").write_text("a b")
    (output / "data" / "2.parquet").write_bytes((output / "data" / "1.parquet").read_bytes()[:100])
    (output / "tmp").write_bytes(b"")
    found = difference(output, expected)
    assert (found.lost, found.doubled, found.orphans, found.same_samples) == (0, 0, 2, True)


def test_a_data_set_is_read_with_what_it_left_behind(tmp_path: Path) -> None:
    whole = write_small_dataset(tmp_path / "whole").directory
    again = shutil.copytree(whole, tmp_path / "again")
    assert difference(again, whole) == Difference(lost=0, doubled=0, orphans=0, same_samples=True, same_bytes=True)
    (again / "shards" / ".000001.tar.1.x.tmp").write_bytes(b"cut")
    assert difference(again, whole).orphans == 1


@pytest.mark.parametrize("path", ["shards/000001.tar.part", "shards/000099.tar", ".journals/000001.journal", "core.1"])
def test_any_file_beyond_those_of_the_data_set_is_left_behind(tmp_path: Path, path: str) -> None:
    whole = write_small_dataset(tmp_path / "whole").directory
    (whole / "shards" / "000000.tar.idx").write_bytes(b"offsets")
    (whole / ".lock").touch()
    again = shutil.copytree(whole, tmp_path / "again")
    (again / path).parent.mkdir(exist_ok=True)
    (again / path).write_bytes(b"cut")
    assert difference(again, whole).orphans == 1


def test_other_failure_records_are_other_bytes(tmp_path: Path) -> None:
    whole = write_small_dataset(tmp_path / "whole").directory
    again = shutil.copytree(whole, tmp_path / "again")
    (again / "failures" / "000000.jsonl").write_text("{}\n")
    assert not difference(again, whole).same_bytes


def test_processes_that_left_the_group_of_a_job_are_killed_too() -> None:
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    marked = subprocess.Popen(sleep, env=os.environ | MARK, start_new_session=True)
    other = subprocess.Popen(sleep, env=os.environ | dict.fromkeys(MARK, "another run"))
    try:
        kill_processes()
        marked.wait(10)  # raises TimeoutExpired if it lives
        assert other.poll() is None
    finally:
        marked.kill()
        other.kill()
        other.wait()
