"""Asking again: bounded, with waits that grow, and not where it is no use."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.shards.location import retry
from vilbert.pipeline.shards.location.retry import ask_again, hurry, patience


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    taken: list[float] = []
    monkeypatch.setattr(retry._hurry, "wait", taken.append)
    return taken


class Server:
    """Fails so many times, then answers."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.asked, self._failures, self._error = 0, failures, error

    def ask(self) -> str:
        self.asked += 1
        if self.asked <= self._failures:
            raise self._error
        return "answer"


@pytest.mark.parametrize("failures", range(retry.ATTEMPTS))
def test_waits_grow_until_there_is_an_answer(waits: list[float], failures: int) -> None:
    server = Server(failures, ConnectionResetError("cut"))
    assert ask_again(server.ask, "reading s3://b/x") == "answer"
    assert server.asked == failures + 1
    assert all(2**at / 2 <= wait <= 2**at for at, wait in enumerate(waits))
    assert len(waits) == failures


def test_it_gives_up_and_says_what_failed_with_what(waits: list[float]) -> None:
    server = Server(1 << 30, TimeoutError("no answer"))
    with pytest.raises(ShardError, match=r"reading s3://b/x failed 6 times, at last with TimeoutError: no answer"):
        ask_again(server.ask, "reading s3://b/x")
    assert server.asked == retry.ATTEMPTS


def test_a_hurry_wakes_those_that_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retry, "FIRST_WAIT_SECONDS", 60)
    server = Server(9, ConnectionResetError("cut"))
    with patience(), ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask_again, server.ask, "reading s3://b/x")
        with pytest.raises(TimeoutError):
            asking.result(0.2)
        hurry()
        with pytest.raises(ShardError, match="failed 2 times"):
            asking.result(20)


def test_in_a_hurry_it_asks_once(waits: list[float]) -> None:
    server = Server(1 << 30, TimeoutError("no answer"))
    with patience():
        hurry()
        with pytest.raises(ShardError, match="failed 1 times"):
            ask_again(server.ask, "reading s3://b/x")
    assert (server.asked, waits) == (1, [])
    assert ask_again(Server(2, TimeoutError("no answer")).ask, "reading s3://b/x") == "answer"


@pytest.mark.parametrize("kind", [FileNotFoundError, PermissionError, FileExistsError, ValueError, ShardError])
def test_what_lasts_is_not_asked_again(waits: list[float], kind: type[Exception]) -> None:
    server = Server(1 << 30, kind("so it is"))
    with pytest.raises(kind, match="so it is"):
        ask_again(server.ask, "reading s3://b/x")
    assert (server.asked, waits) == (1, [])
