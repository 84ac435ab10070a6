"""Ctrl-C and SIGTERM: the command leaves within seconds, whatever its workers are at, and goes on when run again."""

import os
import signal
import time
from pathlib import Path

import pytest

from pipeline.cli import main

from .conftest import Child, Harm, contents


def arguments(manifest: Path, output: Path, *options: str) -> list[str]:
    return [str(manifest), "--output", str(output), "--detector", "shapes", "--shard-size", "5", *options]


@pytest.fixture(scope="module")
def undisturbed(manifest: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "features"
    assert main(["extract", *arguments(manifest, output, "--backend", "local")]) == 0
    return output


def start_and_wait_for_harm(harm: Harm, command: list[str]) -> Child:
    child = harm.start(*command)
    deadline = time.monotonic() + 60
    while not harm.done():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return child


@pytest.mark.parametrize(("place", "number"), [("decode", signal.SIGINT), ("detect", signal.SIGTERM)])
def test_a_worker_stuck_in_native_code_is_left_behind(
    harm: Harm, manifest: Path, undisturbed: Path, tmp_path: Path, place: str, number: signal.Signals
) -> None:
    harm.by(12, place, "hang")
    output = tmp_path / "features"
    child = start_and_wait_for_harm(harm, arguments(manifest, output, "--backend", "local"))
    assert main(["extract", *arguments(manifest, output, "--backend", "local")]) == 2  # the first still writes here
    os.kill(child.pid, number)
    begun = time.monotonic()
    status, messages = child.wait()
    assert status == 130, messages
    assert time.monotonic() - begun < 20
    assert "run the same command again to go on" in messages
    assert not list(output.rglob("*.journal"))  # the image is not to blame for an operator's impatience
    assert main(["extract", *arguments(manifest, output, "--backend", "local")]) == 0
    assert contents(output) == contents(undisturbed)


@pytest.mark.ray
@pytest.mark.slow
def test_with_ray_a_worker_that_holds_its_interpreter_is_ended(
    harm: Harm, manifest: Path, undisturbed: Path, tmp_path: Path
) -> None:
    harm.by(12, "decode", "hang with the interpreter")
    output = tmp_path / "features"
    child = start_and_wait_for_harm(harm, arguments(manifest, output, "--workers", "2"))
    os.kill(child.pid, signal.SIGTERM)
    begun = time.monotonic()
    status, messages = child.wait()
    assert status == 130, messages
    assert time.monotonic() - begun < 40
    assert main(["extract", *arguments(manifest, output, "--backend", "local")]) == 0
    assert contents(output) == contents(undisturbed)
