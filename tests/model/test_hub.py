"""The hub is asked once, within seconds, whether it can be reached."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from huggingface_hub import constants

from vilbert.model.hub import SECONDS, hub_problem
from vilbert.model.tensor_files import CheckpointError
from vilbert.model.text_stream import text_settings


@pytest.fixture(autouse=True)
def asked_anew(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    hub_problem.cache_clear()
    yield
    hub_problem.cache_clear()


def answer(listening: socket.socket, counted: list[int]) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:
            return
        counted.append(1)
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")


def test_any_answer_is_one_and_it_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer, args=(listening, counted), daemon=True)
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{listening.getsockname()[1]}")
        assert [hub_problem(), hub_problem()] == [None, None]
    assert counted == [1]


def test_a_hub_that_cannot_be_reached_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{port}")  # nobody listens there any more
    began = time.monotonic()
    with pytest.raises(CheckpointError, match=rf"no such file or folder here.*127.0.0.1:{port} cannot be reached"):
        text_settings("no-such-model")
    assert time.monotonic() - began < 4 * SECONDS  # huggingface_hub alone takes 23 s for each file


def test_offline_mode_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert hub_problem() == "HF_HUB_OFFLINE is set"
