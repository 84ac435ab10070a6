"""Memory for batches is there on every system, and a descriptor that cannot be used is closed."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch

from vilbert.pipeline.errors import LoaderError
from vilbert.pipeline.train.data.shared_buffers import ReceivedBuffers, WorkerBuffers


def linux(monkeypatch: pytest.MonkeyPatch) -> None:
    pass


def without_memfd(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "memfd_create", raising=False)


def mac_os(monkeypatch: pytest.MonkeyPatch) -> None:
    without_memfd(monkeypatch)
    monkeypatch.delattr(os, "posix_fallocate", raising=False)


@pytest.mark.parametrize("system", [linux, without_memfd, mac_os])
def test_features_arrive_on_every_system(
    monkeypatch: pytest.MonkeyPatch, system: Callable[[pytest.MonkeyPatch], None]
) -> None:
    system(monkeypatch)
    worker, receiver = WorkerBuffers(0), ReceivedBuffers()
    features = worker.take((2, 3), room=100)
    features[:] = torch.arange(6).view(2, 3)
    sent = worker.send(features)
    receiver.add(0, worker.new())
    assert not isinstance(sent, torch.Tensor)
    assert receiver.receive(sent).tolist() == [[0, 1, 2], [3, 4, 5]]


def test_where_there_is_no_room_no_descriptor_is_left_open(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, *_: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "ftruncate", full)
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    before = os.dup(0)
    os.close(before)
    with pytest.raises(LoaderError, match="no room to pass a batch"):
        WorkerBuffers(0).take((2, 3), room=100)
    after = os.dup(0)
    os.close(after)
    assert after == before  # the lowest free number
