"""What a run tells those who watch: its account adds up, is there however the run ends, and a log names attempts."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vilbert.extractors.extractor import ExtractorError
from vilbert.pipeline.cli import main
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.extract.run import extract
from vilbert.pipeline.extract.settings import ExtractSettings
from vilbert.pipeline.jobs.done import find_done
from vilbert.pipeline.jobs.plan import finish_dataset
from vilbert.pipeline.jobs.run_log import LOG_FILE
from vilbert.pipeline.jobs.run_state import RUN_FILE, RunState, read_state
from vilbert.pipeline.jobs.status import judge
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.location.process import this_process

from ..extract.conftest import BROKEN, SCENES

Make = Callable[..., ExtractSettings]


def state_of(directory: Path) -> RunState:
    found = read_state(LocalFolder(directory))
    assert found is not None
    return found


def test_the_summary_adds_up(settings_for: Make, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_for("features", price_per_hour=2.0)
    assert extract(settings) == 0
    state = state_of(settings.output)
    assert state.state == "finished"
    assert state.rows_done == state.rows == SCENES
    assert state.shards_done == state.shards == 5
    assert state.samples == SCENES - len(BROKEN)
    assert sum(state.failures.values()) == len(BROKEN)
    assert state.bytes == sum(path.stat().st_size for path in (settings.output / "shards").glob("*.tar"))
    assert 0 < state.detector_seconds <= state.worker_seconds <= state.seconds
    assert state.detector_waited == pytest.approx(1 - state.detector_seconds / state.worker_seconds)
    document = json.loads((settings.output / RUN_FILE).read_text())
    assert document["images_per_second"] == pytest.approx(SCENES / state.seconds)
    assert document["cost_per_million"] == pytest.approx(2.0 * state.worker_seconds / 3600 / SCENES * 1e6)
    assert main(["status", str(settings.output)]) == 0
    shown = capsys.readouterr().out
    assert "finished" in shown
    assert f"{SCENES} of {SCENES} (100.0%)" in shown
    assert "1 missing_file" in shown
    assert main(["verify", str(settings.output), "--deep"]) == 0


def test_a_second_run_counts_its_own_and_all(settings_for: Make) -> None:
    settings = settings_for("features")
    assert extract(settings) == 0
    (settings.output / "shards" / "000002.json").unlink()
    assert extract(settings) == 0
    state = state_of(settings.output)
    assert (state.rows_before, state.rows_done, state.samples) == (SCENES - 5, SCENES, 4)  # row 11 fails
    assert state.failed == len(BROKEN)
    before = (settings.output / RUN_FILE).read_bytes()
    assert extract(settings) == 0  # nothing to do, nothing to tell
    assert (settings.output / RUN_FILE).read_bytes() == before


def test_a_retry_counts_what_it_tried_and_not_what_it_kept(settings_for: Make) -> None:
    settings = settings_for("features")
    assert extract(settings) == 0
    assert extract(settings_for("features", retry_failed=())) == 0
    state = state_of(settings.output)
    assert (state.rows_done - state.rows_before, state.rows_done) == (len(BROKEN), SCENES)
    assert state.failed == len(BROKEN)


def test_the_log_names_shard_and_attempt(settings_for: Make) -> None:
    settings = settings_for("features")
    assert extract(settings) == 0
    log = (settings.output / LOG_FILE).read_text()
    for shard in range(5):
        assert re.search(rf"INFO shard {shard}, attempt 1: assigned", log)
        assert re.search(rf"INFO shard {shard}, attempt 1: done, \d samples", log)
    assert "shard 2, attempt 1: done, 4 samples, failed: 1 not_an_image" in log


def test_a_log_or_state_that_cannot_be_written_costs_the_run_nothing(settings_for: Make) -> None:
    settings = settings_for("features")
    settings.output.mkdir()
    for name in (RUN_FILE, LOG_FILE):
        (settings.output / name).mkdir()
    assert extract(settings) == 0
    assert len(list((settings.output / "shards").glob("*.tar"))) == 5


def test_a_run_that_fails_says_why(
    settings_for: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_for("features")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("vilbert.pipeline.extract.worker.ShardWriter.commit", fail)
    with pytest.raises(OSError, match="No space left"):
        extract(settings)
    assert state_of(settings.output).state == "failed"
    assert main(["status", str(settings.output)]) == 1
    assert "No space left on device" in capsys.readouterr().out


def test_a_run_is_finished_when_its_data_set_is(settings_for: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_for("features")

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("vilbert.pipeline.jobs.run.finish_dataset", fail)
        with pytest.raises(ShardError, match="No space left"):
            extract(settings)
    assert state_of(settings.output).state == "failed"
    assert extract(settings) == 0
    assert state_of(settings.output).state == "finished"


def test_one_that_is_interrupted_before_a_worker_is_ready_says_so(
    settings_for: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_for("features")

    def first(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("vilbert.pipeline.jobs.crew.Crew.first", first)
    assert extract(settings) == 130
    assert main(["status", str(settings.output)]) == 1
    assert "interrupted after" in capsys.readouterr().out


def test_before_a_worker_is_ready_it_is_starting_and_not_what_the_last_run_was(
    settings_for: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = settings_for("features")
    seen: list[str] = []

    def first(*_: object) -> None:
        assert main(["status", str(settings.output)]) == 0
        seen.append(capsys.readouterr().out)
        raise ExtractorError("no such weights")

    monkeypatch.setattr("vilbert.pipeline.jobs.crew.Crew.first", first)
    for _ in range(2):
        with pytest.raises(ExtractorError):
            extract(settings)
        assert "no worker is ready yet" in seen[-1]
        assert (state_of(settings.output).state, state_of(settings.output).message) == ("failed", "no such weights")
        assert main(["status", str(settings.output)]) == 1
    assert len(seen) == 2


def renewed(output: Path, state: str) -> bool:
    """Wait until the account is written anew, and say whether it tells of this state."""
    before, deadline = state_of(output), time.monotonic() + 10
    while (now := state_of(output)).updated == before.updated:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return before.state == now.state == state and before.seconds < now.seconds


def test_the_account_stays_new_while_a_run_starts_and_while_it_closes_the_data_set(
    settings_for: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for("features")
    seen: list[bool] = []

    def slowly(whole: Callable[..., object], state: str) -> Callable[..., object]:
        def after_a_while(*arguments: object, **options: object) -> object:
            seen.extend(renewed(settings.output, state) for _ in range(2))
            return whole(*arguments, **options)

        return after_a_while

    monkeypatch.setattr("vilbert.pipeline.jobs.watch.SAVE_SECONDS", 0.02)
    monkeypatch.setattr("vilbert.pipeline.jobs.run.find_done", slowly(find_done, "starting"))
    monkeypatch.setattr("vilbert.pipeline.jobs.run.finish_dataset", slowly(finish_dataset, "running"))
    assert extract(settings) == 0
    assert seen == [True] * 4
    assert state_of(settings.output).state == "finished"
    assert not [thread for thread in threading.enumerate() if thread.name == "account"]


@pytest.mark.slow
def test_a_killed_run_is_seen_to_be_dead_and_an_interrupted_one_to_be_interrupted(
    manifest: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "features"
    options = ["--detector", "shapes", "--backend", "local", "--shard-size", "1", "--batch-size", "1"]
    command = [
        sys.executable,
        "-m",
        "vilbert.pipeline.cli",
        "extract",
        str(manifest),
        "--output",
        str(output),
        *options,
    ]
    for number, condition in ((signal.SIGKILL, "killed after"), (signal.SIGTERM, "interrupted after")):
        (output / RUN_FILE).unlink(missing_ok=True)
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            while (state := read_state(LocalFolder(output))) is None or state.state == "starting":
                assert process.poll() is None
                time.sleep(0.01)
            assert main(["status", str(output)]) == 0
            assert "running for" in capsys.readouterr().out
            process.send_signal(number)
            process.wait(60)
        assert main(["status", str(output)]) == 1
        assert condition in capsys.readouterr().out


@pytest.mark.parametrize("name", ["starting", "running"])
def test_silence_of_another_machine_is_noticed(name: str) -> None:
    elsewhere = {**this_process(), "machine": "another"}
    state = RunState(state=name, updated=1000.0, begun=900.0, software="0", holder=elsewhere)
    assert judge(state, 1010.0)[1]
    assert judge(state, 900.0)[1]  # a clock behind
    condition, fine = judge(state, 1100.0)
    assert not fine
    assert condition.startswith("no update for 0:01:40")
    assert str(os.getpid()) in condition


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"format": 2}', b'{"format": 1}', b"\xff"])
def test_a_damaged_state_counts_as_none(content: bytes, settings_for: Make, capsys: pytest.CaptureFixture[str]) -> None:
    settings = settings_for("features", limit=5)
    assert extract(settings) == 0
    (settings.output / RUN_FILE).write_bytes(content)
    assert main(["status", str(settings.output)]) == 0
    assert "1 finished shard" in capsys.readouterr().out


def test_no_data_set_is_a_usage_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", str(tmp_path)]) == 2
    assert "expected a data set" in capsys.readouterr().err
