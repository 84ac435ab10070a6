"""Ctrl-C while a file is read is an interrupt, never a damaged file."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vilbert.interrupts import delayed_interrupts
from vilbert.model.checkpoint import read_state_dict

MAIN = threading.main_thread().ident


def read_and_wait(path: Path, seconds: float) -> None:
    """Read a file while Ctrl-C is sent to the main thread after so many seconds, and wait for it."""
    assert MAIN is not None
    timer = threading.Timer(seconds, signal.pthread_kill, (MAIN, signal.SIGINT))
    timer.start()
    read_state_dict(path)
    timer.join()
    time.sleep(10)


def raise_twice(done: list[bool]) -> None:
    with delayed_interrupts():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append(True)


def test_a_signal_waits_for_the_end_of_the_block_and_goes_to_the_handler_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    done: list[bool] = []
    with pytest.raises(KeyboardInterrupt):
        raise_twice(done)
    assert done
    assert signal.getsignal(signal.SIGINT) is before


def test_each_signal_is_delivered_to_a_handler_that_does_not_raise() -> None:
    noted: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: noted.append(number))
    try:
        with delayed_interrupts():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            assert noted == []
    finally:
        signal.signal(signal.SIGINT, before)
    assert noted == [signal.SIGINT, signal.SIGINT]


def test_ctrl_c_while_handlers_are_restored_loses_no_later_signal(monkeypatch: pytest.MonkeyPatch) -> None:
    restore = signal.signal

    def interrupted(number: int, handler: Any) -> Any:
        previous = restore(number, handler)
        if number == signal.SIGINT and handler is signal.default_int_handler:
            monkeypatch.undo()
            signal.raise_signal(signal.SIGINT)
        return previous

    noted: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: noted.append(number))
    try:
        with pytest.raises(KeyboardInterrupt), delayed_interrupts():
            monkeypatch.setattr(signal, "signal", interrupted)
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert noted == [signal.SIGTERM]


def test_an_error_of_the_block_is_not_lost_where_no_signal_came() -> None:
    with pytest.raises(ValueError, match="damaged"), delayed_interrupts():
        raise ValueError("damaged")


def test_ignored_signals_stay_ignored_and_threads_are_left_alone() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with delayed_interrupts():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    entered: list[bool] = []

    def enter() -> None:
        with delayed_interrupts():
            entered.append(True)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert entered == [True]


def test_at_any_moment_of_reading_safetensors_ctrl_c_is_an_interrupt(tmp_path: Path) -> None:
    """Without the delay nearly half of these are a ValueError of PyTorch."""
    path = tmp_path / "model.safetensors"
    save_file({f"layer.{number}": torch.zeros(4) for number in range(1000)}, path)
    started = time.perf_counter()
    read_state_dict(path)
    seconds = time.perf_counter() - started
    for attempt in range(20):
        with pytest.raises(KeyboardInterrupt):
            read_and_wait(path, seconds * attempt / 20)
