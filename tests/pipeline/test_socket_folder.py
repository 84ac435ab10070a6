"""A TMPDIR too long for Unix sockets: only the sockets go elsewhere, and the commands work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vilbert.pipeline import socket_folder
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.socket_folder import RAY_SOCKET, ray_folder

LIMIT_SECONDS = 240


@pytest.fixture
def long_folder(tmp_path: Path) -> Path:
    """Return a folder whose path is longer than the kernel allows for a socket."""
    folder = tmp_path / ("x" * 60) / ("y" * 60)
    folder.mkdir(parents=True)
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python with TMPDIR set to `folder`; a process that hangs is killed."""
    return subprocess.run(
        [sys.executable, *arguments],
        env=os.environ | {"TMPDIR": str(folder)},
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )


CONNECTS = """
import multiprocessing, os, tempfile
from multiprocessing.connection import Client, Listener
from vilbert.pipeline.socket_folder import shorten_multiprocessing_sockets

def child(address):
    with Client(address) as connection:
        connection.send(tempfile.gettempdir())
    with Listener(family="AF_UNIX"):  # a child makes its own there too
        pass

if __name__ == "__main__":
    shorten_multiprocessing_sockets()
    with Listener(family="AF_UNIX") as listener:
        process = multiprocessing.get_context("spawn").Process(target=child, args=(listener.address,))
        process.start()
        with listener.accept() as connection:
            assert connection.recv() == tempfile.gettempdir() == os.environ["TMPDIR"]
        process.join()
        assert process.exitcode == 0
        print(os.path.dirname(listener.address))
"""


def test_processes_connect_and_the_folder_is_deleted_at_the_end(long_folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "connects.py"
    script.write_text(CONNECTS)
    done = run(long_folder, str(script))
    assert done.returncode == 0, done.stderr
    assert not Path(done.stdout.strip()).exists()


def test_ray_keeps_a_folder_that_is_short_and_gets_a_short_one_for_one_that_is_long(long_folder: Path) -> None:
    with ray_folder("/tmp/ray") as folder:
        assert folder is None
    with ray_folder(f"{long_folder}/ray") as folder:
        assert folder is not None
        assert len(folder + RAY_SOCKET) <= 103
        assert Path(folder).stat().st_mode & 0o777 == 0o700
    assert not Path(folder).exists()


def test_without_a_short_folder_tmpdir_is_named_as_the_cause(
    long_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(socket_folder, "SHORT_FOLDERS", (str(long_folder),))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    with pytest.raises(RefusedError, match="set TMPDIR to a shorter path"), ray_folder(f"{long_folder}/ray"):
        pass
    monkeypatch.setattr("tempfile.tempdir", str(long_folder))
    with pytest.raises(RefusedError, match="TMPDIR"):
        socket_folder.shorten_multiprocessing_sockets()


@pytest.fixture
def features(long_folder: Path, tmp_path: Path) -> Path:
    """Return a small data set that `extract --backend local` made with the long TMPDIR."""
    shapes, listed, output = tmp_path / "shapes", tmp_path / "m.parquet", tmp_path / "features"
    annotations = shapes / "karpathy" / "dataset_coco.json"
    for command in (
        ("shapes", str(shapes), "--scenes", "12"),
        ("manifest", str(annotations), "--images", str(shapes), "--output", str(listed)),
        ("extract", str(listed), "--output", str(output), "--detector", "shapes", "--backend", "local"),
    ):
        done = run(long_folder, "-m", "vilbert.pipeline.cli", *command)
        assert done.returncode == 0, done.stderr
    return output


@pytest.mark.slow
def test_pretraining_with_loader_processes_ends(long_folder: Path, features: Path, tmp_path: Path) -> None:
    model = ["--model", "shapes", "--init-from", "none", "--tokenizer", "shapes", "--device", "cpu"]
    short = ["--batch-size", "2", "--max-steps", "2", "--eval-split", "none", "--tracker", "none", "--num-workers", "2"]
    output = tmp_path / "run"
    done = run(
        long_folder, "-m", "vilbert.pipeline.cli", "pretrain", str(features), "--output", str(output), *model, *short
    )
    assert done.returncode == 0, done.stderr
    assert (output / "final" / "model.safetensors").is_file()


@pytest.mark.ray
@pytest.mark.slow
def test_extract_with_ray_ends_and_leaves_no_folder_behind(long_folder: Path, features: Path, tmp_path: Path) -> None:
    before = set(Path("/tmp").glob("vilbert-ray-*"))
    arguments = ["extract", str(tmp_path / "m.parquet"), "--detector", "shapes", "--workers", "1"]
    done = run(long_folder, "-m", "vilbert.pipeline.cli", *arguments, "--output", str(tmp_path / "with-ray"))
    assert done.returncode == 0, done.stderr
    made = {path.name: path.read_bytes() for path in (tmp_path / "with-ray" / "shards").iterdir()}
    assert made == {path.name: path.read_bytes() for path in (features / "shards").iterdir()}
    assert set(Path("/tmp").glob("vilbert-ray-*")) <= before
