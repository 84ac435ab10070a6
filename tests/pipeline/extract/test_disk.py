"""A disk that is full, a quota, an output that cannot be written: said clearly, nothing half done taken for done."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.shards.record import read_records

from .conftest import Harm, contents


def arguments(manifest: Path, output: Path, *options: str) -> list[str]:
    words = [str(manifest), "--output", str(output), "--detector", "shapes", "--shard-size", "5", "--batch-size", "4"]
    return [*words, "--backend", "local", *options]


@pytest.fixture(scope="module", params=["tar", "lmdb"])
def undisturbed(
    request: pytest.FixtureRequest, manifest: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    output = tmp_path_factory.mktemp("undisturbed") / "features"
    assert main(["extract", *arguments(manifest, output, "--format", request.param)]) == 0
    return output, request.param


@pytest.mark.slow
def test_a_limit_to_a_file_is_said_and_once_it_is_lifted_the_same_command_goes_on(
    harm: Harm, manifest: Path, undisturbed: tuple[Path, str], tmp_path: Path
) -> None:
    complete, storage = undisturbed
    output = tmp_path / "features"
    command = arguments(manifest, output, "--format", storage)
    largest = max(record.bytes for record in read_records(complete).values())
    status, messages = harm.run(*command, file_bytes=largest // 2)
    assert status == 1
    assert f"cannot be written ({'File too large' if storage == 'tar' else ''}" in messages
    assert "free space or check" in messages
    assert "Traceback" not in messages
    assert not list(output.rglob("*.tmp"))
    assert main(["extract", *command]) == 0
    assert contents(output) == contents(complete)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 400 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("this user may not mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_is_said_and_after_room_is_made_the_same_command_goes_on(
    harm: Harm, manifest: Path, undisturbed: tuple[Path, str], small_disk: Path
) -> None:
    complete, storage = undisturbed
    output = small_disk / "features"
    command = arguments(manifest, output, "--format", storage)
    status, messages = harm.run(*command)
    assert status == 1
    assert "No space left on device" in messages
    assert "Traceback" not in messages
    for shard, record in read_records(output).items():  # what it took for done, is
        assert record == read_records(complete)[shard]
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    assert main(["extract", *command]) == 0
    assert contents(output) == contents(complete)


def test_an_output_that_cannot_be_written_is_said(
    manifest: Path, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    assert main(["extract", *arguments(manifest, small_disk / "features")]) == 1
    assert "cannot be written (Read-only file system); free space or check its permissions" in capsys.readouterr().err


@pytest.fixture
def read_only(undisturbed: tuple[Path, str], tmp_path: Path) -> Iterator[Path]:
    """A complete data set on a disk that may only be read."""
    folder = Path(shutil.copytree(undisturbed[0], tmp_path / "read-only"))
    for options in (["-o", "bind", folder], ["-o", "remount,ro,bind"]):
        if subprocess.run(["mount", *options, folder], capture_output=True).returncode:
            pytest.skip("this user may not mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_complete_data_set_on_a_read_only_disk_has_nothing_to_do(
    manifest: Path, undisturbed: tuple[Path, str], read_only: Path, caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    _, storage = undisturbed
    command = arguments(manifest, read_only, "--format", storage)
    with caplog.at_level("INFO"):
        assert main(["extract", *command]) == 0
    assert f"nothing to do: {read_only} has all its shards" in caplog.text
    assert main(["extract", *command, "--boxes", "3"]) == 2  # of other settings
    assert "holds a data set with other settings" in capsys.readouterr().err
    assert main(["extract", *command, "--retry-failed", "corrupt"]) == 1
    assert "cannot be written (Read-only file system)" in capsys.readouterr().err


def test_a_read_only_data_set_without_one_of_its_shards_is_refused(
    manifest: Path, undisturbed: tuple[Path, str], read_only: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, storage = undisturbed
    subprocess.run(["mount", "-o", "remount,rw,bind", read_only], check=True)
    (read_only / "shards" / f"000000.{storage}").unlink()
    subprocess.run(["mount", "-o", "remount,ro,bind", read_only], check=True)
    assert main(["extract", *arguments(manifest, read_only, "--format", storage)]) == 2
    assert f"{read_only}: is read-only and 1 shard is missing or damaged; make it" in capsys.readouterr().err
