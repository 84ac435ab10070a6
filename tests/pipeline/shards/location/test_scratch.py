"""Scratch folders: gone in the end, gone after a kill, left alone while their process lives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.shards.location.scratch import scratch_folder

HOLD = """
from vilbert.pipeline.shards.location.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "shard").write_bytes(b"half")
    print(folder, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def _place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


def test_it_is_empty_and_goes_with_all_that_is_in_it() -> None:
    with scratch_folder() as first, scratch_folder() as second:
        assert first != second
        assert list(first.iterdir()) == []
        (first / "a").mkdir()
        (first / "a" / "b").write_bytes(b"x")
    assert not first.exists()
    assert not second.exists()


def test_one_of_a_killed_process_is_deleted_by_the_next_and_one_in_use_is_not() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.getcwd()},
    ) as process:
        assert process.stdout is not None
        held = Path(process.stdout.readline().strip())
        with scratch_folder():
            assert (held / "shard").exists()
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert held.exists()
        with scratch_folder():
            assert not held.exists()


def test_a_link_in_its_place_is_not_followed(tmp_path: Path) -> None:
    """Another user of a shared TMPDIR can create it; the folders that it leads to would be deleted as unlocked ones."""
    precious = tmp_path / "home" / "thesis"
    precious.mkdir(parents=True)
    (tmp_path / f"vilbert-scratch-{os.getuid()}").symlink_to(precious.parent)
    with pytest.raises(ShardError, match="is a link or belongs to another user"), scratch_folder():
        pass
    assert precious.is_dir()


def test_where_none_can_be_made_it_says_what_to_do(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with pytest.raises(ShardError, match="set TMPDIR to another disk"), scratch_folder():
        pass
