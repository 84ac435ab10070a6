"""The journal: entries come back as written, and a resumed run's are those of an undisturbed one."""

import json
import logging
import math
import os
import sys
from pathlib import Path

import pytest

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.train.run.journal import METRICS_FILE, Journal, read_journal, without_timing
from vilbert.pipeline.train.run.trackers import TENSORBOARD_FOLDER, open_trackers


def record(run: Path, steps: range, *, resumed_at: int | None, speed: float, tensorboard: bool = False) -> None:
    """Write what a run measures in `steps`: a train entry each, an evaluation at every third."""
    trackers = open_trackers(("tensorboard",) if tensorboard else (), run, {}, resumed_at=resumed_at)
    journal = Journal(run, resumed_at=resumed_at, trackers=trackers)
    for step in steps:
        journal.write("train", step, {"loss": 1 / step, "samples_per_second": speed * step, "waiting": speed / 10})
        if step % 3 == 0:
            journal.write("eval", step, {"loss": 2 / step, "seconds": speed})
    journal.close()


@pytest.mark.parametrize("resumed_at", [0, 1, 3, 4, 7])
def test_a_resumed_run_has_the_lines_of_an_undisturbed_one(resumed_at: int, tmp_path: Path) -> None:
    record(tmp_path / "a", range(1, 11), resumed_at=None, speed=1.0)
    record(tmp_path / "b", range(1, 8), resumed_at=None, speed=2.0)
    record(tmp_path / "b", range(resumed_at + 1, 11), resumed_at=resumed_at, speed=3.0)
    undisturbed, resumed = read_journal(tmp_path / "a"), read_journal(tmp_path / "b")
    assert without_timing(resumed) == without_timing(undisturbed)
    assert resumed != undisturbed


def test_a_line_cut_by_a_kill_at_any_byte_is_dropped(tmp_path: Path) -> None:
    record(tmp_path, range(1, 4), resumed_at=None, speed=1.0)
    path = tmp_path / METRICS_FILE
    whole = path.read_bytes()
    last = whole.splitlines(keepends=True)[-1]
    for length in range(len(whole) - len(last), len(whole)):
        path.write_bytes(whole[:length])
        assert len(read_journal(tmp_path)) == 3
        record(tmp_path, range(4, 5), resumed_at=3, speed=1.0)
        assert [(entry["kind"], entry["step"]) for entry in read_journal(tmp_path)] == [
            ("train", 1), ("train", 2), ("train", 3), ("train", 4),
        ]  # fmt: skip


def test_an_entry_is_on_disk_before_the_journal_is_closed(tmp_path: Path) -> None:
    journal = Journal(tmp_path, resumed_at=None)
    journal.write("train", 1, {"loss": 0.1})
    assert read_journal(tmp_path) == [{"kind": "train", "step": 1, "loss": 0.1}]
    journal.close()


def test_a_new_run_does_not_go_on_from_an_old_journal(tmp_path: Path) -> None:
    record(tmp_path, range(1, 4), resumed_at=None, speed=1.0)
    record(tmp_path, range(1, 2), resumed_at=None, speed=1.0)
    assert [entry["step"] for entry in read_journal(tmp_path)] == [1]


def test_a_crash_while_cutting_back_leaves_the_old_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record(tmp_path, range(1, 8), resumed_at=None, speed=1.0)
    before = (tmp_path / METRICS_FILE).read_bytes()

    def crash(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="no space left"):
        Journal(tmp_path, resumed_at=2)
    assert (tmp_path / METRICS_FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [METRICS_FILE]


def test_numbers_that_are_not_finite_are_null_and_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path, resumed_at=None)
    journal.write("train", 1, {"loss": math.nan, "words": 1.5, "regions": math.inf, "alignment": -math.inf})
    journal.close()
    text = (tmp_path / METRICS_FILE).read_text()
    (entry,) = [json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))]
    assert (entry["loss"], entry["words"], entry["regions"], entry["alignment"]) == (None, 1.5, None, None)
    assert entry["not_finite"] == ["loss=nan", "regions=inf", "alignment=-inf"]


@pytest.mark.parametrize("damage", [b"no json", b"[1]", b'{"kind": "train"}', b'{"kind": "train", "step": "1"}'])
def test_a_damaged_line_is_named(damage: bytes, tmp_path: Path) -> None:
    record(tmp_path, range(1, 3), resumed_at=None, speed=1.0)
    path = tmp_path / METRICS_FILE
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + damage + b"\n" + second)
    with pytest.raises(ShardError, match="line 2: is not an entry"):
        read_journal(tmp_path)


def test_a_run_without_a_journal_has_no_entries(tmp_path: Path) -> None:
    assert read_journal(tmp_path) == []


def test_tensorboard_shows_each_step_once_after_resuming(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    record(tmp_path, range(1, 6), resumed_at=None, speed=1.0, tensorboard=True)
    record(tmp_path, range(4, 8), resumed_at=3, speed=2.0, tensorboard=True)
    events = EventAccumulator(str(tmp_path / TENSORBOARD_FOLDER))
    events.Reload()
    speeds = {event.step: event.value for event in events.Scalars("train/samples_per_second")}
    assert len(events.Scalars("train/samples_per_second")) == 7
    assert speeds == {step: (1.0 if step <= 3 else 2.0) * step for step in range(1, 8)}
    assert [event.step for event in events.Scalars("eval/loss")] == [3, 6]


def test_without_tensorboard_one_line_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with caplog.at_level(logging.INFO):
        assert open_trackers(("auto",), tmp_path, {}, resumed_at=None) == {}
    assert not (tmp_path / TENSORBOARD_FOLDER).exists()
    (line,) = caplog.messages
    assert "pip install 'vilbert-pipeline[tensorboard]'" in line


def test_no_events_are_written_unless_asked_for(tmp_path: Path) -> None:
    record(tmp_path, range(1, 3), resumed_at=None, speed=1.0)
    assert not (tmp_path / TENSORBOARD_FOLDER).exists()
