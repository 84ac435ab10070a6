"""The same stage through Ray, as the command that users run: other processes, killed at any moment, the same bytes."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.jobs.ray_backend import worker_resources
from vilbert.pipeline.shards.dataset import read_dataset

from .conftest import BROKEN, SCENES, contents

ROWS = 240
SECONDS = 180


@pytest.fixture(scope="module")
def long_manifest(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest of ROWS rows, long enough to be killed in the middle."""
    folder = tmp_path_factory.mktemp("long")
    lines = ["image_id,path", *(f"row{row:03d},scene{row % SCENES:02d}.png" for row in range(ROWS))]
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    path = folder / "manifest.parquet"
    assert main(["manifest", str(folder / "list.csv"), "--images", str(images), "--output", str(path)]) == 0
    return path


@pytest.fixture(scope="module")
def undisturbed(long_manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data set that one worker in one process makes, without Ray."""
    output = tmp_path_factory.mktemp("undisturbed") / "features"
    assert main([*arguments(long_manifest, output), "--backend", "local"]) == 0
    return output


def arguments(manifest: Path, output: Path) -> list[str]:
    return ["extract", str(manifest), "--output", str(output), "--detector", "shapes", "--shard-size", "5"]


def start(manifest: Path, output: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "vilbert.pipeline.cli", *arguments(manifest, output), "--workers", "2", *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_shards(output: Path, driver: subprocess.Popen, number: int) -> None:
    deadline = time.monotonic() + SECONDS
    while len(list((output / "shards").glob("*.json"))) < number:
        assert driver.poll() is None, driver.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def actors(driver: subprocess.Popen) -> list[psutil.Process]:
    """Return the processes of the driver's Ray that run a worker of ours."""
    family = psutil.Process(driver.pid).children(recursive=True)
    return [process for process in family if process.cmdline()[:1] and "ray::Worker" in process.cmdline()[0]]


def wait_for_actors(driver: subprocess.Popen, number: int) -> list[psutil.Process]:
    """Return them once there are so many: one may get shards done before the other is there."""
    deadline = time.monotonic() + SECONDS
    while len(found := actors(driver)) < number:
        assert driver.poll() is None, driver.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


@pytest.fixture(autouse=True)
def _no_ray_left_behind() -> Iterator[None]:
    yield
    deadline = time.monotonic() + 30
    while any("ray::Worker" in " ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])):
        assert time.monotonic() < deadline, "workers outlive their driver"
        time.sleep(0.2)


@pytest.mark.ray
def test_two_workers_one_killed_make_the_bytes_of_one_process(
    long_manifest: Path, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "features"
    driver = start(long_manifest, output)
    wait_for_shards(output, driver, 2)
    workers = wait_for_actors(driver, 2)
    assert len(workers) == 2
    listening = {
        connection.laddr.ip
        for process in psutil.Process(driver.pid).children(recursive=True)
        for connection in process.net_connections(kind="tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert {address.removeprefix("::ffff:") for address in listening} <= {"127.0.0.1", "::1"}
    at_work = max(workers, key=lambda worker: worker.cpu_times().user)  # the other may be building its detector still
    at_work.send_signal(signal.SIGKILL)
    _, messages = driver.communicate(timeout=SECONDS)
    assert driver.returncode == 0, messages
    assert "its worker was lost" in messages
    assert contents(output) == contents(undisturbed)
    info = read_dataset(output)
    broken = sum(row % SCENES in BROKEN for row in range(ROWS))
    assert (info.totals.samples, sum(info.totals.failures.values())) == (ROWS - broken, broken)


@pytest.mark.ray
@pytest.mark.slow
def test_the_driver_killed_then_interrupted_then_left_alone(
    long_manifest: Path, undisturbed: Path, tmp_path: Path
) -> None:
    output = tmp_path / "features"
    driver = start(long_manifest, output)
    wait_for_shards(output, driver, 2)
    os.kill(driver.pid, signal.SIGKILL)
    driver.communicate(timeout=SECONDS)

    driver = start(long_manifest, output)
    wait_for_shards(output, driver, 8)
    os.kill(driver.pid, signal.SIGINT)
    _, messages = driver.communicate(timeout=60)
    assert driver.returncode == 130, messages
    assert "run the same command again to resume" in messages
    assert not read_dataset(output).complete

    assert main([*arguments(long_manifest, output), "--backend", "local"]) == 0
    assert contents(output) == contents(undisturbed)


@pytest.mark.parametrize(
    ("options", "cluster", "expected"),
    [
        ({}, {"CPU": 8.0}, (0.0, 8)),
        ({"cpus_per_worker": 3}, {"CPU": 8.0}, (0.0, 2)),
        ({}, {"CPU": 8.0, "GPU": 2.0}, (1.0, 2)),
        ({"gpus_per_worker": 0.5}, {"CPU": 8.0, "GPU": 2.0}, (0.5, 4)),
        ({"gpus_per_worker": 0.0}, {"CPU": 8.0, "GPU": 2.0}, (0.0, 8)),
        ({"workers": 3}, {"CPU": 8.0}, (0.0, 3)),
    ],
)
def test_workers_are_as_many_as_fit(
    options: dict, cluster: dict[str, float], expected: tuple[float, int], tmp_path: Path
) -> None:
    settings = ExtractSettings(manifest=tmp_path / "m.parquet", output=tmp_path / "out", **options)
    assert worker_resources(settings, cluster) == expected


@pytest.mark.parametrize(
    ("options", "cluster"),
    [
        ({"workers": 3}, {"CPU": 2.0}),
        ({"cpus_per_worker": 4}, {"CPU": 2.0}),
        ({"gpus_per_worker": 1.0}, {"CPU": 2.0}),
    ],
)
def test_workers_that_do_not_fit_are_refused(options: dict, cluster: dict[str, float], tmp_path: Path) -> None:
    from vilbert.extractors.extractor import ExtractorError

    settings = ExtractSettings(manifest=tmp_path / "m.parquet", output=tmp_path / "out", **options)
    with pytest.raises(ExtractorError, match="do not fit"):
        worker_resources(settings, cluster)
