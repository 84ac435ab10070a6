"""The progress line: its numbers, and how a terminal and a log differ."""

import io
import time

import pytest

from vilbert.pipeline.progress_line import SECONDS_BETWEEN_LOG_LINES
from vilbert.pipeline.train.run.progress import TrainProgress


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
    expected = "500/1000 steps (50%), loss 2.5000, 128.0 samples/s, 3% waiting for data, 00:50 elapsed, 04:10 remaining"
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


def test_nothing_is_shown_where_no_step_was_made(clock: list[float]) -> None:
    for total, first in ((0, 0), (8, 8), (8, 3)):
        log = io.StringIO()
        TrainProgress(total_steps=total, first_step=first, batch_size=8, stream=log).close()
        assert not log.getvalue()


def test_the_time_left_is_that_of_the_whole_run_with_its_evaluations_and_checkpoints(clock: list[float]) -> None:
    progress = TrainProgress(
        total_steps=100, first_step=0, batch_size=1, stream=io.StringIO(), eval_every=10, checkpoint_every=30
    )
    for step in range(1, 31):
        clock[0] += 1
        progress.show(step, loss=1.0, waiting=0.0)
        if step == 9:
            assert progress.line(clock[0] - 100.0).endswith("01:31 and 10 evaluations remaining")
        evaluation, checkpoint = (60.0 if step % 10 == 0 else None), (5.0 if step % 30 == 0 else None)
        clock[0] += (evaluation or 0.0) + (checkpoint or 0.0)
        progress.note(evaluation=evaluation, checkpoint=checkpoint)
    clock[0] += 1
    progress.show(31, loss=1.0, waiting=0.0)
    # 69 steps of 1 s, 7 evaluations of 60 s (40, 50, ..., 100), 3 checkpoints of 5 s (60, 90, 100).
    assert progress.line(clock[0] - 100.0).endswith("08:24 remaining")


def test_the_last_line_says_that_nothing_is_left(clock: list[float]) -> None:
    log = io.StringIO()
    progress = TrainProgress(total_steps=2, first_step=0, batch_size=1, stream=log, eval_every=2)
    for step in (1, 2):
        clock[0] += 1
        progress.show(step, loss=1.0, waiting=0.0)
    clock[0] += 5
    progress.note(evaluation=5.0, checkpoint=None)
    progress.close()
    assert log.getvalue().endswith("00:07 elapsed, 00:00 remaining\n")
