"""Command, hardware and times of a run stand in its report, and damage to their file hides nothing else."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from vilbert.pipeline.command_line import command_line, recorded_command
from vilbert.pipeline.train.run.report import write_report
from vilbert.pipeline.train.run.sessions import SESSIONS_FILE, begin_session, duration, end_session, read_sessions


def begin(run: Path, arguments: list[str], *, step: int = 0, gpus: tuple[str, ...] = ()) -> None:
    with recorded_command(arguments):
        begin_session(run, step=step, processes=1, gpus=gpus)


def test_the_report_shows_command_hardware_software_and_times(tmp_path: Path) -> None:
    begin(tmp_path, ["pretrain", "features", "--output", "my run"], gpus=("NVIDIA X, 80 GiB",) * 2)
    end_session(tmp_path, step=7, finished=True)
    html = write_report(tmp_path).read_text()
    assert "vilbert pretrain features --output &#39;my run&#39;" in html
    for name in ("CPU", "GPU", "memory", "software", "started", "ended", "duration"):
        assert f"<td>{name}</td>" in html
    assert "<td>2 x NVIDIA X, 80 GiB</td>" in html
    assert "torch " in html
    assert "session 1" not in html


def test_a_resumed_run_shows_each_session_and_one_without_an_end(tmp_path: Path) -> None:
    begin(tmp_path, ["pretrain", "a"])
    begin(tmp_path, ["pretrain", "a"], step=5)
    end_session(tmp_path, step=9, finished=False)
    first, second = read_sessions(tmp_path)
    assert ("ended" in first, second["ended"]["step"], second["ended"]["finished"]) == (False, 9, False)
    html = write_report(tmp_path).read_text()
    assert "session 1: ended</td><td>not recorded" in html
    assert "at step 9 (interrupted)" in html


def test_a_run_of_an_earlier_version_shows_nothing_of_it(tmp_path: Path) -> None:
    assert read_sessions(tmp_path) == []
    assert "hardware" not in write_report(tmp_path).read_text()


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"[" * 100_000, b'{"event": "start"}', b"[]", b'{"event": "end", "t'])
def test_damaged_lines_are_left_out_and_a_later_session_is_whole(tmp_path: Path, damage: bytes) -> None:
    begin(tmp_path, ["pretrain", "a"])
    with (tmp_path / SESSIONS_FILE).open("ab") as file:
        file.write(damage)
    begin(tmp_path, ["pretrain", "b"])
    assert [session["command"] for session in read_sessions(tmp_path)] == ["vilbert pretrain a", "vilbert pretrain b"]
    write_report(tmp_path)


def test_fields_of_a_wrong_type_do_not_stop_the_report(tmp_path: Path) -> None:
    odd = [{"event": "start", "time": "2026-01-01T00:00:00", "gpus": 3, "software": [1], "cores": None}]
    odd.append({"event": "end", "time": "2026-01-01T00:00:05", "step": {}})
    (tmp_path / SESSIONS_FILE).write_text("".join(json.dumps(entry) + "\n" for entry in odd))
    assert "<td>duration</td><td>5 s</td>" in write_report(tmp_path).read_text()


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
def test_a_time_beyond_the_calendar_is_left_out(tmp_path: Path, time: str) -> None:
    (tmp_path / SESSIONS_FILE).write_text(json.dumps({"event": "start", "time": time}) + "\n")
    begin(tmp_path, ["pretrain", "a"])
    assert len(read_sessions(tmp_path)) == 1
    write_report(tmp_path)


def test_credentials_of_urls_are_not_recorded() -> None:
    with recorded_command(["extract", "s3://key:secret@bucket/a?token=t", "--cache=https://u:p@h/x", "http://[bad"]):
        assert command_line() == "vilbert extract s3://bucket/a --cache=https://h/x ..."
    assert command_line() is None
    assert "VILBERT_COMMAND" not in os.environ


@pytest.mark.parametrize(("seconds", "text"), [(5, "5 s"), (65.4, "1 min 5 s"), (7322, "2 h 2 min")])
def test_durations_are_readable(seconds: float, text: str) -> None:
    assert duration(seconds) == text
