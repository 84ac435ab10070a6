"""Ctrl-C and SIGTERM: the command leaves within seconds, whatever its workers are at, and goes on when run again."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from vilbert.pipeline.cli import main
from vilbert.pipeline.shards.location import lock
from vilbert.pipeline.shards.location.folder import LocalFolder

from .conftest import Child, Harm, contents


def arguments(manifest: Path, output: Path | str, *options: str) -> list[str]:
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


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "number"), [pytest.param("decode", signal.SIGINT, marks=pytest.mark.slow), ("detect", signal.SIGTERM)]
)
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
    assert "run the same command again to resume" in messages
    assert not list(output.rglob("*.journal"))  # the image is not to blame for an operator's impatience
    assert main(["extract", *arguments(manifest, output, "--backend", "local")]) == 0
    assert contents(output) == contents(undisturbed)


def interrupted_when(monkeypatch: pytest.MonkeyPatch, place: str, also: Callable[[], None]) -> None:
    """Let a function of the run's do this and be interrupted."""

    def interrupt(*_: object, **__: object) -> None:
        also()
        raise KeyboardInterrupt

    monkeypatch.setattr(f"vilbert.pipeline.jobs.{place}", interrupt)


@pytest.mark.parametrize("place", ["run.is_complete", "crew.Crew.first", "run.choose_retries", "run.finish_dataset"])
def test_a_store_that_is_away_neither_hides_an_interrupt_nor_delays_it(
    manifest: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    store = type(fsspec.filesystem("memory"))
    asked: list[str] = []

    def away() -> None:
        def ask(name: str) -> Callable[..., None]:
            def fail(*_: object, **__: object) -> None:
                asked.append(name)
                raise ConnectionResetError("no route to host")

            return fail

        for name in ("ls", "info", "put_file", "get_file", "cat_file", "rm_file"):
            monkeypatch.setattr(store, name, ask(name))

    interrupted_when(monkeypatch, place, away)
    try:
        assert main(["extract", *arguments(manifest, "memory://away/set", "--backend", "local")]) == 130
    finally:
        store.store.clear()
    assert asked
    assert "the finished shards are complete; run the same command again to resume" in caplog.text
    assert "trying again" not in caplog.text


@pytest.mark.parametrize("place", ["run.is_complete", "crew.Crew.first", "run.finish_dataset"])
def test_nor_does_a_disk_that_fails(
    manifest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(116, "Stale file handle")

    def away() -> None:
        for name in ("entries", "local", "write", "delete", "sweep"):
            monkeypatch.setattr(LocalFolder, name, fail)
        monkeypatch.setattr(lock.os, "ftruncate", fail)

    interrupted_when(monkeypatch, place, away)
    assert main(["extract", *arguments(manifest, tmp_path / "features", "--backend", "local")]) == 130
    assert "run the same command again to resume" in caplog.text
    assert "unfinished files cannot be deleted: [Errno 116] Stale file handle" in caplog.text


def test_a_closing_sweep_that_fails_costs_a_run_nothing(
    manifest: Path, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: LocalFolder) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(LocalFolder, "sweep", fail)
    assert main(["extract", *arguments(manifest, tmp_path / "features", "--backend", "local")]) == 0
    assert contents(tmp_path / "features") == contents(undisturbed)


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
