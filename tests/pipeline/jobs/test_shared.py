"""`--shared`: several processes write one data set, are killed, and it is the one of a single process."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from vilbert.pipeline.cli import main, parse
from vilbert.pipeline.errors import FingerprintError, LockedError
from vilbert.pipeline.extract.run import extract
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.jobs.claims import Claim, Claims, reset_claims
from vilbert.pipeline.jobs.run_state import read_state
from vilbert.pipeline.jobs.shared import join, share, sign
from vilbert.pipeline.shards.checks.verify import examine
from vilbert.pipeline.shards.dataset import read_dataset
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.location.layout import PLAN_FOLDER
from vilbert.pipeline.shards.location.lock import exclusive_writer, open_lock

from ..extract.conftest import contents
from ..train.forks import Forks, forking

TASKS = 3
EXTRACTION = """
import torchvision, PIL.Image, pyarrow.parquet, lmdb
import vilbert.pipeline.extract.run, vilbert.pipeline.jobs.local_backend
import vilbert.pipeline.shards.storage.tar_store, vilbert.extractors.detectors.shapes_frcnn
"""
Make = Callable[..., ExtractSettings]


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with forking(EXTRACTION) as source:
        yield source


@pytest.fixture
def alone(settings_for: Make) -> dict[str, bytes]:
    """What one process writes that nobody disturbs."""
    settings = settings_for("alone", shard_size=2)
    assert extract(settings) == 0
    return contents(settings.output)


def command(manifest: Path, output: Path, *options: str) -> list[str]:
    return [
        *("extract", str(manifest), "--output", str(output), "--detector", "shapes", "--backend", "local"),
        *("--shard-size", "2", "--batch-size", "4", "--shared", *options),
    ]


def wait_for_records(output: Path, number: int) -> None:
    deadline = time.monotonic() + 120
    while len(list((output / "shards").glob("*.json"))) < number:
        assert time.monotonic() < deadline
        time.sleep(0.002)


def assert_complete(output: Path, expected: dict[str, bytes]) -> None:
    assert contents(output) == expected  # no claim, no state of a task and no temporary file is left
    assert examine(output, deep=True).findings == ()
    state = read_state(LocalFolder(output))
    assert state is not None
    assert (state.state, state.shards_done) == ("finished", state.shards)
    assert state.rows_done == state.rows == 22


def test_tasks_side_by_side_write_what_one_process_writes(
    manifest: Path, tmp_path: Path, alone: dict[str, bytes], forks: Forks, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "shared"
    tasks = [forks.start(command(manifest, output), tmp_path / f"log{task}") for task in range(TASKS)]
    wait_for_records(output, 1)
    main(["status", str(output), "--json"])
    told = json.loads(capsys.readouterr().out)
    assert told["shards"] == 11
    assert "active" in told["condition"] or told["state"] == "finished"
    assert [forks.wait(task) for task in tasks] == [0] * TASKS, (tmp_path / "log0").read_text()
    assert_complete(output, alone)
    given = [line for line in (output / ".run.log").read_text().splitlines() if "assigned to a worker" in line]
    assert len(given) == 11  # no shard was made twice
    assert main(command(manifest, output)) == 0
    assert contents(output) == alone


def test_shards_of_killed_tasks_are_made_by_the_others(
    manifest: Path, tmp_path: Path, alone: dict[str, bytes], forks: Forks
) -> None:
    output = tmp_path / "shared"
    tasks = [forks.start(command(manifest, output), tmp_path / f"log{task}") for task in range(TASKS)]
    wait_for_records(output, 2)
    for task in tasks[1:]:
        os.kill(task, signal.SIGKILL)
    first, *others = [forks.wait(task) for task in tasks]
    assert first == 0, (tmp_path / "log0").read_text()
    assert set(others) <= {-signal.SIGKILL, 0}  # 0: it was faster
    assert_complete(output, alone)


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_whatever_is_killed_and_queued_again_the_bytes_are_the_same(
    manifest: Path, tmp_path: Path, alone: dict[str, bytes], forks: Forks, seed: int
) -> None:
    output, draw = tmp_path / "shared", random.Random(seed)
    log = tmp_path / "log"
    tasks = [forks.start(command(manifest, output), log) for _ in range(TASKS)]
    for killed in range(5):
        wait_for_records(output, 2 * killed)  # a row that is in hand whenever a slow task is killed counts as its cause
        time.sleep(draw.uniform(0, 0.3))
        victims = tasks if killed == 3 else [draw.choice(tasks)]  # once all together, as when a cluster goes down
        for victim in list(victims):
            os.kill(victim, signal.SIGKILL)
            forks.wait(victim)
            tasks[tasks.index(victim)] = forks.start(command(manifest, output), log)
    assert [forks.wait(task) for task in tasks] == [0] * TASKS, log.read_text()
    assert_complete(output, alone)


def test_a_task_killed_while_it_completes_the_data_set_leaves_that_to_the_next(
    settings_for: Make, alone: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for("shared", shard_size=2, shared=True)
    for place in ("jobs.shared.finish_dataset", "extract.job.write_side_files", "jobs.shared.remove_tasks"):

        def killed(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patched:
            if place == "jobs.shared.remove_tasks":
                patched.setattr("vilbert.pipeline.jobs.shared.merge_tasks", killed)
            else:
                patched.setattr(f"vilbert.pipeline.{place}", killed)
            assert extract(settings) == 130
        assert read_dataset(settings.output).complete == (place != "jobs.shared.finish_dataset")
    assert extract(settings) == 0
    assert_complete(settings.output, alone)


def test_tasks_and_a_command_without_shared_keep_each_other_out(settings_for: Make) -> None:
    settings = settings_for("shared", shard_size=2, shared=True)
    settings.output.mkdir()
    with exclusive_writer(settings.output), pytest.raises(LockedError, match="is writing here"):
        extract(settings)
    with open_lock(settings.output) as lock:
        assert lock.take(shared=True)
        lock.sign("a task with --shared, process 7 on node3")
        with pytest.raises(LockedError, match="a task with --shared, process 7 on node3 is writing here"):
            extract(settings_for("shared", shard_size=2))


def test_a_finished_data_set_that_lost_a_shard_is_made_whole(settings_for: Make, alone: dict[str, bytes]) -> None:
    settings = settings_for("shared", shard_size=2, shared=True)
    assert extract(settings) == 0
    (settings.output / "shards" / "000004.json").unlink()
    assert extract(settings) == 0
    assert_complete(settings.output, alone)


def test_a_command_without_shared_goes_on_where_all_tasks_were_killed(
    manifest: Path, tmp_path: Path, alone: dict[str, bytes], forks: Forks
) -> None:
    output = tmp_path / "shared"
    task = forks.start(command(manifest, output), tmp_path / "log")
    wait_for_records(output, 2)
    os.kill(task, signal.SIGKILL)
    killed = forks.wait(task) == -signal.SIGKILL  # else it was faster
    assert main(["status", str(output)]) == int(killed)
    arguments = command(manifest, output)
    arguments.remove("--shared")
    assert main(arguments) == 0
    assert_complete(output, alone)


def test_a_command_of_other_settings_is_refused_and_leaves_nothing(settings_for: Make) -> None:
    settings = settings_for("alone", shard_size=2)
    assert extract(settings) == 0
    expected = contents(settings.output)
    with pytest.raises(FingerprintError, match="shard_size"):
        extract(settings_for("alone", shard_size=3, shared=True))
    assert contents(settings.output) == expected


def test_a_claim_ends_with_its_process_and_a_mark_does_not(tmp_path: Path) -> None:
    reset_claims(tmp_path, 4)
    with Claims(tmp_path) as claims:
        assert claims.take(1) is Claim.OURS
        reader, writer = os.pipe()
        if (child := os.fork()) == 0:
            with Claims(tmp_path) as others:
                others.take(2)
                others.take(3)
                others.finish(3)
                os.write(writer, f"{others.take(1).value}".encode())
                time.sleep(60)
        assert os.read(reader, 10) == b"held"
        assert [claims.take(shard) for shard in (2, 3)] == [Claim.HELD, Claim.DONE]
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        assert [claims.take(shard) for shard in (2, 3)] == [Claim.OURS, Claim.DONE]
        os.close(reader)
        os.close(writer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--retry-failed"], "--retry-failed cannot be combined with --shared"),
        (["--output", "s3://bucket/x"], "--output is a URL"),
    ],
)
def test_what_tasks_cannot_do_is_refused(
    manifest: Path, tmp_path: Path, options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse("extract", [*command(manifest, tmp_path / "out"), *options][1:])
    assert message in " ".join(capsys.readouterr().err.replace("│", " ").split())


def test_conversions_are_shared_too(settings_for: Make, tmp_path: Path, forks: Forks) -> None:
    source = settings_for("source")
    assert extract(source) == 0

    def convert(output: Path, *options: str) -> list[str]:
        command = ["convert", str(source.output), "--output", str(output), "--shard-size", "3"]
        return [*command, "--where", "n_boxes > 1", *options]

    assert main(convert(tmp_path / "one")) == 0
    tasks = [forks.start(convert(tmp_path / "two", "--shared"), tmp_path / "log") for _ in range(2)]
    assert [forks.wait(task) for task in tasks] == [0, 0], (tmp_path / "log").read_text()
    assert contents(tmp_path / "two") == contents(tmp_path / "one")


def test_a_task_that_has_not_signed_yet_is_waited_for(tmp_path: Path) -> None:
    """Two tasks begin at once, where a command without --shared that was killed has signed before them."""
    (tmp_path / ".lock").write_text("process 7 on node3\n")
    with open_lock(tmp_path) as first, open_lock(tmp_path) as second:
        assert first.take()

        def begin() -> None:
            time.sleep(0.2)
            sign(first)
            time.sleep(0.4)
            share(first)

        beginning = threading.Thread(target=begin)
        beginning.start()
        assert not join(second)
        beginning.join()


def between_readings(call: Callable[..., Any], lock: Any, read: list[str]) -> Callable[..., Any]:
    """Return a function that reads the holder of a lock before and after the call."""

    def called(*arguments: Any) -> Any:
        read.append(lock.holder())
        result = call(*arguments)
        read.append(lock.holder())
        return result

    return called


def test_the_lock_is_signed_at_every_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    with open_lock(tmp_path) as lock, open_lock(tmp_path) as other:
        lock.sign("a task with --shared, process 123456 on node3")
        for name in ("pwrite", "ftruncate"):
            monkeypatch.setattr(os, name, between_readings(getattr(os, name), other, read))
        lock.sign("a task with --shared, process 7 on node3")
    assert len(read) == 4
    assert all(holder.startswith("a task with --shared, process ") for holder in read)
    assert read[-1] == "a task with --shared, process 7 on node3"


def claim_of_another_process(output: Path, shard: int) -> str:
    """Return what another process that opens the claims now gets."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        with Claims(output) as claims:
            os.write(writer, claims.take(shard).value.encode())
        os._exit(0)
    os.waitpid(child, 0)
    told = os.read(reader, 10).decode()
    os.close(reader)
    os.close(writer)
    return told


def test_claims_hold_against_all_tasks_and_until_the_workers_have_ended(
    settings_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shard is missing after all, so the task begins again; meanwhile another command deleted the file of claims."""
    settings = settings_for("shared", shard_size=2, shared=True)
    told: list[str] = []

    def make_shards(*arguments: Any) -> None:
        claims = arguments[5]
        assert claims.take(0) is Claim.OURS
        told.append(claim_of_another_process(settings.output, 0))
        if len(told) == 2:
            raise KeyboardInterrupt
        claims.finish(0)

    def complete(job: Any, folder: LocalFolder, planned: Any) -> None:
        folder.delete(".claims")

    def close(crew: Any, hung: Any) -> None:
        told.append(claim_of_another_process(settings.output, 0))
        crew.close()

    monkeypatch.setattr("vilbert.pipeline.jobs.shared.make_shards", make_shards)
    monkeypatch.setattr("vilbert.pipeline.jobs.shared.complete", complete)
    monkeypatch.setattr("vilbert.pipeline.jobs.workers.close", close)
    assert extract(settings) == 130
    assert told == ["held", "held", "held"]


def test_a_conversion_of_other_settings_is_refused_and_leaves_the_plan(
    settings_for: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Workers of the tasks that wrote the plan read it."""
    source, output = settings_for("source"), tmp_path / "converted"
    assert extract(source) == 0
    command = ["convert", str(source.output), "--output", str(output), "--shared", "--backend", "local"]

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("vilbert.pipeline.jobs.shared.make_shards", interrupted)
        assert main([*command, "--shard-size", "3"]) == 130
    plan = {path.name: path.read_bytes() for path in (output / PLAN_FOLDER).iterdir()}
    for other in (["--shard-size", "4"], ["--shard-size", "3", "--where", "n_boxes > 2"]):
        with open_lock(output) as lock:
            assert lock.take(shared=True)
            assert main([*command, *other]) == 2
        assert "holds a data set with other settings" in capsys.readouterr().err
        assert {path.name: path.read_bytes() for path in (output / PLAN_FOLDER).iterdir()} == plan
    assert main([*command, "--shard-size", "3"]) == 0
