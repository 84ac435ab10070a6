"""A thread that is ahead of the training loop hands over the same items, and errors, and ends when it is closed.

What it copies to a GPU is tested on the emulated one: `tests/pipeline/train/test_emulated_gpu.py`.
"""

from __future__ import annotations

import threading
from collections.abc import Generator

import pytest

from vilbert.pipeline.train.engine.copy_ahead import Ahead


def numbers(taken: list[tuple[int, str]], *, last: int = 5, fails: bool = False) -> Generator[int, None, None]:
    """Yield 0 to last, noting in which thread each is asked for."""
    try:
        for number in range(last + 1):
            taken.append((number, threading.current_thread().name))
            yield number
        if fails:
            raise ValueError("number 6 is missing")
    finally:
        taken.append((-1, "closed"))


def test_items_come_in_order_and_all_but_the_first_from_a_thread() -> None:
    taken: list[tuple[int, str]] = []
    ahead = Ahead(numbers(taken), lambda number: number * 10)
    assert list(ahead) == [0, 10, 20, 30, 40, 50]
    with pytest.raises(StopIteration):
        next(ahead)
    ahead.close()
    assert taken[0] == (0, threading.current_thread().name)
    assert {name for _, name in taken[1:-1]} == {"copy-ahead"}


def test_an_error_is_raised_where_the_item_is_asked_for() -> None:
    ahead = Ahead(numbers([], fails=True), lambda number: number)
    found = [next(ahead) for _ in range(6)]
    assert found == [0, 1, 2, 3, 4, 5]
    for _ in range(2):
        with pytest.raises(ValueError, match="number 6 is missing"):
            next(ahead)
    ahead.close()


def test_closing_ends_a_thread_whose_items_nobody_takes() -> None:
    taken: list[tuple[int, str]] = []
    ahead = Ahead(numbers(taken, last=1000), lambda number: number)
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    ahead.close()
    assert taken[-1] == (-1, "closed")
    assert len(taken) < 10
    assert "copy-ahead" not in [thread.name for thread in threading.enumerate()]


def test_closing_before_the_first_item_closes_the_generator() -> None:
    source = numbers([])
    Ahead(source, lambda number: number).close()
    with pytest.raises(StopIteration):
        next(source)
