"""The lease of a remote folder: one writer, whoever dies, and whatever the clocks say."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from vilbert.pipeline.errors import LockedError, ShardError
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.location import lease
from vilbert.pipeline.shards.location.lease import acquire, hold_lease
from vilbert.pipeline.shards.location.process import machine
from vilbert.pipeline.shards.location.remote_folder import RemoteFolder

NAME = ".lease/00000001.json"


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[RemoteFolder]:
    """A folder of a store in memory, and a lease that beats every 50 ms."""
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.05)
    monkeypatch.setattr(lease, "PATIENCE_SECONDS", 0.6)
    yield RemoteFolder("memory://data/set")
    fsspec.filesystem("memory").store.clear()


def content(folder: RemoteFolder, name: str = NAME) -> dict[str, object]:
    data = folder.read(name)
    assert data is not None
    found: dict[str, object] = json.loads(data)
    return found


def leave(folder: RemoteFolder, number: int = 1, **changes: object) -> None:
    """Write the lease that a run of another machine left."""
    document = {"holder": "process 7 on elsewhere", "process": 7, "machine": "another", "unique": "x", "beats": 3}
    folder.write(f".lease/{number:08}.json", encode_json(document | {"released": False} | changes))


def test_it_is_given_back_and_taken_again_at_once(folder: RemoteFolder) -> None:
    for number in (1, 2, 3):
        began = time.monotonic()
        with hold_lease(folder):
            assert [name for name, _ in folder.entries(".lease")] == [f"{number:08}.json"]
        assert time.monotonic() - began < lease.PATIENCE_SECONDS
    assert content(folder, ".lease/00000003.json")["released"] is True


def test_the_holder_beats_and_others_are_refused_by_its_name(folder: RemoteFolder) -> None:
    with hold_lease(folder):
        with pytest.raises(LockedError, match=rf"memory://data/set: process {os.getpid()} on .* is writing here"):
            acquire(folder)
        assert int(str(content(folder)["beats"])) > 0


def test_a_run_of_another_machine_that_stands_still_is_succeeded_after_a_while(folder: RemoteFolder) -> None:
    leave(folder)
    began = time.monotonic()
    with hold_lease(folder):
        assert time.monotonic() - began >= lease.PATIENCE_SECONDS
        assert [name for name, _ in folder.entries(".lease")] == ["00000002.json"]


def test_a_dead_process_of_this_machine_is_succeeded_at_once(folder: RemoteFolder) -> None:
    process = multiprocessing.get_context("fork").Process(target=int)
    process.start()
    process.join()
    leave(folder, process=process.pid, machine=machine())
    began = time.monotonic()
    with hold_lease(folder):
        assert time.monotonic() - began < lease.PATIENCE_SECONDS / 2


@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b'{"process":"x","machine":null}'])
def test_a_damaged_lease_runs_out_like_any_other(folder: RemoteFolder, damage: bytes) -> None:
    folder.write(NAME, damage)
    with hold_lease(folder):
        assert [name for name, _ in folder.entries(".lease")] == ["00000002.json"]


def test_whoever_is_succeeded_is_interrupted_and_told(folder: RemoteFolder) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        with pytest.raises(LockedError, match="another one took over"), hold_lease(folder):  # noqa: PT012
            leave(folder, 2)
            with pytest.raises(KeyboardInterrupt):
                time.sleep(30)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert content(folder, ".lease/00000002.json")["released"] is False  # the successor's is left alone


def test_who_comes_when_others_came_and_went_meanwhile_is_refused(
    folder: RemoteFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave(folder, released=True)

    def others_come(folder: RemoteFolder, number: int) -> None:
        leave(folder, 3)
        folder.delete(NAME)

    monkeypatch.setattr(lease, "_wait_for_its_end", others_come)
    with pytest.raises(LockedError, match="has just started writing here"):
        acquire(folder)
    assert [name for name, _ in folder.entries(".lease")] == ["00000003.json"]


@pytest.mark.parametrize("kind", [ShardError, OSError])
def test_a_network_that_is_away_does_not_end_the_run(
    folder: RemoteFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, kind: type[Exception]
) -> None:
    whole, failed = RemoteFolder.write, threading.Event()

    def away(self: RemoteFolder, name: str, data: bytes) -> None:
        if not failed.is_set():
            failed.set()
            raise kind("no route to host")
        whole(self, name, data)

    with hold_lease(folder):
        monkeypatch.setattr(RemoteFolder, "write", away)
        assert failed.wait(10)
        time.sleep(0.3)
        assert int(str(content(folder)["beats"])) > 1
    assert "no route to host" in caplog.text


@pytest.mark.parametrize("kind", [ShardError, OSError])
def test_a_store_that_is_away_when_the_lease_is_given_back_is_not_waited_for(
    folder: RemoteFolder, monkeypatch: pytest.MonkeyPatch, kind: type[Exception]
) -> None:
    hanging, go_on = threading.Event(), threading.Event()

    def hang(self: RemoteFolder, name: str, data: bytes) -> None:
        if threading.current_thread().name == "lease":
            hanging.set()
            go_on.wait(10)
        raise kind("no route to host")

    monkeypatch.setattr(lease, "_LEAVE_SECONDS", 0.1)
    with hold_lease(folder):
        monkeypatch.setattr(RemoteFolder, "write", hang)
        assert hanging.wait(5)
        began = time.monotonic()
    assert time.monotonic() - began < 5
    go_on.set()


def test_its_machine_is_this_boot_and_not_its_name_alone() -> None:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert str(machine()).startswith(boot)
