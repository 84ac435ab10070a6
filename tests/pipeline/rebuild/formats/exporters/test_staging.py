"""Outputs appear whole or not at all."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from vilbert.pipeline.errors import LockedError, RefusedError, ShardError
from vilbert.pipeline.rebuild.formats.exporters.staging import Rows, StagedWriter
from vilbert.pipeline.shards.sample import Sample

from .conftest import make_samples


def write_keys(path: Path) -> Rows:
    with path.open("x") as file:
        while (sample := (yield)) is not None:
            file.write(sample.key + "\n")
            file.flush()
            if sample.key == "9":
                raise ShardError("the format cannot hold 9")


def start(path: Path, samples: list[Sample], *, finish: bool = True) -> None:
    with StagedWriter(path, write_keys) as writer:
        for sample in samples:
            writer.add(sample)
        if finish:
            writer.finish()


def test_the_file_appears_when_it_is_finished(tmp_path: Path) -> None:
    output = tmp_path / "new" / "keys.txt"
    with StagedWriter(output, write_keys) as writer:
        writer.add(make_samples()[0])
        assert not output.exists()
        writer.finish()
        assert output.read_text() == "17\n"
    assert os.listdir(output.parent) == ["keys.txt"]


def test_nothing_remains_without_finish_or_after_an_error(tmp_path: Path) -> None:
    start(tmp_path / "keys.txt", make_samples()[:1], finish=False)
    with pytest.raises(ShardError, match="cannot hold 9"):
        start(tmp_path / "keys.txt", make_samples())
    assert os.listdir(tmp_path) == []


def test_an_export_that_failed_cannot_be_finished(tmp_path: Path) -> None:
    with StagedWriter(tmp_path / "keys.txt", write_keys) as writer:
        with pytest.raises(ShardError, match="cannot hold 9"):
            writer.add(make_samples()[1])
        with pytest.raises(ShardError, match="run it again"):
            writer.finish()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "folder", "dangling link"])
def test_what_is_there_is_not_overwritten(kind: str, tmp_path: Path) -> None:
    output = tmp_path / "keys.txt"
    {"file": output.touch, "folder": output.mkdir, "dangling link": lambda: output.symlink_to("nowhere")}[kind]()
    with pytest.raises(RefusedError, match=r"keys\.txt: exists"):
        start(output, make_samples()[:1])
    assert os.listdir(tmp_path) == ["keys.txt"]


def test_what_appeared_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    with StagedWriter(tmp_path / "keys.txt", write_keys) as writer:
        (tmp_path / "keys.txt").write_text("another's")
        with pytest.raises(RefusedError, match="exists"):
            writer.finish()
    assert (tmp_path / "keys.txt").read_text() == "another's"


def test_a_second_export_to_the_same_place_is_refused(tmp_path: Path) -> None:
    with StagedWriter(tmp_path / "keys.txt", write_keys) as first:
        with pytest.raises(LockedError, match="another process is exporting"):
            start(tmp_path / "keys.txt", make_samples()[:1])
        first.add(make_samples()[0])
        first.finish()
    assert (tmp_path / "keys.txt").read_text() == "17\n"


def test_a_link_in_the_place_of_the_working_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").touch()
    (tmp_path / ".keys.txt.export").symlink_to("precious")
    with pytest.raises(OSError, match=r"\.keys\.txt\.export"):
        start(tmp_path / "keys.txt", make_samples()[:1])
    assert (tmp_path / "precious" / "file").exists()


def test_a_killed_export_leaves_nothing_under_its_name_and_the_next_starts_over(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from vilbert.pipeline.rebuild.formats.exporters.staging import StagedWriter
def rows(path):
    path.mkdir()
    (path / "half").write_text("half")
    print("ready", flush=True)
    yield
with StagedWriter(Path({str(tmp_path / "keys.txt")!r}), rows):
    time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(signal.SIGKILL)
    assert os.listdir(tmp_path) == [".keys.txt.export"]
    start(tmp_path / "keys.txt", make_samples()[:1])
    assert os.listdir(tmp_path) == ["keys.txt"]


def test_a_working_folder_that_its_owner_deletes_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, deleted = fcntl.flock, []

    def flock(descriptor: int, flags: int) -> None:
        lock(descriptor, flags)
        if not deleted:
            deleted.append(True)
            (tmp_path / ".keys.txt.export").rmdir()

    monkeypatch.setattr(fcntl, "flock", flock)
    start(tmp_path / "keys.txt", make_samples()[:1])
    assert os.listdir(tmp_path) == ["keys.txt"]
