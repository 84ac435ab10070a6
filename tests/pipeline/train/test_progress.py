"""The progress line: its numbers, and how a terminal and a log differ."""

import io
import time

import pytest

from pipeline.progress_line import SECONDS_BETWEEN_LOG_LINES
from pipeline.train.progress import TrainProgress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that a test sets."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_resumed_run_counts_only_its_own_steps_in_rate_and_time_left(clock: list[float]) -> None:
    log = io.StringIO()
    progress = TrainProgress(total_steps=1000, first_step=400, batch_size=64, stream=log)
    clock[0] += 50
    progress.show(500, loss=2.5, waiting=0.034)
    # 100 steps in 50 s: 2 steps/s, 128 samples/s, and 500 steps are left.
    expected = "500/1000 steps (50%), loss 2.5000, 128.0 samples/s, 3% waiting for data, 00:50 gone, 04:10 left"
    assert log.getvalue() == f"pretrain: {expected}\n"


def test_a_log_gets_a_line_only_every_so_often(clock: list[float]) -> None:
    log = io.StringIO()
    progress = TrainProgress(total_steps=1000, first_step=0, batch_size=1, stream=log)
    for step in range(1, 301):
        clock[0] += SECONDS_BETWEEN_LOG_LINES / 100
        progress.show(step, loss=1.0, waiting=0.0)
    lines = log.getvalue().splitlines()
    assert 2 <= len(lines) <= 3
    assert all(line.startswith("pretrain: ") for line in lines)


def test_a_terminal_shows_every_step_in_place(clock: list[float]) -> None:
    terminal = Terminal()
    progress = TrainProgress(total_steps=3, first_step=0, batch_size=1, stream=terminal)
    for step in (1, 2, 3):
        clock[0] += 1
        progress.show(step, loss=1.0, waiting=0.0)
    progress.close()
    text = terminal.getvalue()
    assert text.count("\r") == 4
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert "3/3 steps (100%)" in text


def test_closing_before_the_first_step_divides_by_nothing(clock: list[float]) -> None:
    log = io.StringIO()
    TrainProgress(total_steps=0, first_step=0, batch_size=8, stream=log).close()
    assert "0/0 steps (0%), loss nan, 0.0 samples/s" in log.getvalue()
    assert "? left" in log.getvalue()
