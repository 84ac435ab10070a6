"""A single writer per remote folder, without file locks.

    FOLDER/.lease/00000007.json     the writer: process, host, number of heartbeats, whether it is done

A lease is a numbered object that its holder rewrites every ten seconds. A new process that sees it change is refused.
If it does not change for 40 seconds (by the new process's own clock), is released, or belongs to a dead process on the
same machine, the new process creates the next number. The store allows only one process to create it (If-None-Match),
and a holder that sees a number higher than its own stops. So no cleanup is needed after a killed run, and the clocks of
hosts need not agree.

A holder that was disconnected for 40 seconds and reconnects may write at the same time as its successor until its next
heartbeat. Both write the same shards with the same settings, so the bytes are equal, except if an image could be
downloaded by only one of them. The record of one may then be stored with the files of the other. `vilbert verify
--deep` finds this; after deleting that record, the next run rewrites the shard.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

from vilbert.documents import Count, document, from_json
from vilbert.pipeline.errors import LockedError, ShardError
from vilbert.pipeline.shards.canonical import decode_json, encode_json
from vilbert.pipeline.shards.location.process import is_dead, this_process

logger = logging.getLogger(__name__)

LEASE_FOLDER = ".lease"
BEAT_SECONDS = 10.0
PATIENCE_SECONDS = 40.0
"""Time without a heartbeat after which the holder of a lease is considered dead."""
_LOOK_SECONDS = 2.0
_LEAVE_SECONDS = 5.0
"""Maximum wait at the end for a heartbeat in progress; a later heartbeat delays the next run by 40 s."""


class Objects(Protocol):
    """The folder operations that a lease needs; see `RemoteFolder`."""

    @property
    def name(self) -> str: ...
    def entries(self, under: str) -> Iterator[tuple[str, int | None]]: ...
    def read(self, name: str) -> bytes | None: ...
    def write(self, name: str, data: bytes) -> None: ...
    def create(self, name: str, data: bytes) -> bool: ...
    def delete(self, name: str) -> None: ...


@contextlib.contextmanager
def hold_lease(folder: Objects) -> Iterator[None]:
    """Hold the folder's lease. Raise LockedError, naming the holder, if another process holds it or took it over."""
    number, me = acquire(folder)
    done, lost = threading.Event(), threading.Event()
    beating = threading.Thread(target=_beat, args=(folder, number, me, done, lost), name="lease", daemon=True)
    beating.start()
    try:
        yield
    finally:
        done.set()
        beating.join(_LEAVE_SECONDS)
        if not lost.is_set():
            with contextlib.suppress(OSError, ShardError):  # it then expires
                folder.write(_name(number), encode_json({**me, "released": True}))
    if lost.is_set():
        raise LockedError(
            f"{folder.name}: this run sent no heartbeat for a while and another one took over; let that one continue"
        )


@document
class Lease:
    """The content of a lease: its process (see `process.this_process`) and state."""

    holder: str
    process: int
    machine: str | None
    unique: str
    beats: Count
    """Number of heartbeats so far."""
    released: bool
    """Whether the holder is done."""


def acquire(folder: Objects) -> tuple[int, dict[str, Any]]:
    """Acquire the folder's lease and return its number and content. Raise LockedError if another process holds it."""
    before = _numbers(folder)
    newest = max(before, default=0)
    if newest:
        _wait_for_its_end(folder, newest)
    number, me = newest + 1, _this_run()
    taken = folder.create(_name(number), encode_json(me))
    if taken and max(_numbers(folder), default=0) > number:  # other processes held it while this one waited
        folder.delete(_name(number))
        taken = False
    if not taken:
        raise LockedError(f"{folder.name}: another process has just started writing here; choose another --output")
    for old in before:
        folder.delete(_name(old))
    return number, me


def _wait_for_its_end(folder: Objects, number: int) -> None:
    """Wait until a lease is free. Raise LockedError if its holder is alive."""
    first = folder.read(_name(number))
    if first is None or _is_over(first):
        return
    lease = _parse(first)
    holder = "another process" if lease is None else lease.holder
    logger.info("%s: was held by %s; waiting %g s for its heartbeat", folder.name, holder, PATIENCE_SECONDS)
    began = time.monotonic()
    while time.monotonic() - began < PATIENCE_SECONDS:
        time.sleep(min(_LOOK_SECONDS, PATIENCE_SECONDS / 4))
        content = folder.read(_name(number))
        if content is None or _is_over(content):
            return
        if content != first:
            raise LockedError(f"{folder.name}: {holder} is writing here; wait for it or stop it, or use another folder")
    logger.warning("%s: %s sent no heartbeat for %g s; continuing", folder.name, holder, PATIENCE_SECONDS)


def _beat(folder: Objects, number: int, me: dict[str, Any], done: threading.Event, lost: threading.Event) -> None:
    """Rewrite the lease periodically until `done`. Set `lost` and interrupt the run if another process took it over."""
    beats = 0
    while not done.wait(BEAT_SECONDS):
        try:
            if max(_numbers(folder), default=0) > number:
                lost.set()
                _interrupt_the_run()
                return
            beats += 1
            folder.write(_name(number), encode_json({**me, "beats": beats}))
        except (
            OSError,
            ShardError,
        ) as error:  # the network is down; another owner is detected at the next heartbeat
            logger.warning("the lease could not be renewed: %s", error)


def _interrupt_the_run() -> None:
    """End the run with SIGTERM if a handler is installed; without one the process would be killed."""
    main = threading.main_thread().ident
    if main is not None and callable(signal.getsignal(signal.SIGTERM)):
        signal.pthread_kill(main, signal.SIGTERM)


def _numbers(folder: Objects) -> list[int]:
    names = (name.removesuffix(".json") for name, _ in folder.entries(LEASE_FOLDER))
    return [int(name) for name in names if name.isdecimal()]


def _name(number: int) -> str:
    return f"{LEASE_FOLDER}/{number:08}.json"


def _this_run() -> dict[str, Any]:
    return {**this_process(), "unique": os.urandom(8).hex(), "beats": 0, "released": False}


def _parse(content: bytes) -> Lease | None:
    """Parse a lease. Return None if it is invalid; its holder is then given the full waiting time."""
    try:
        return from_json(Lease, decode_json(content))
    except ValueError:
        return None


def _is_over(content: bytes) -> bool:
    """Return whether a lease is released, or its holder is a dead process of this machine."""
    lease = _parse(content)
    return lease is not None and (lease.released or is_dead(vars(lease)))
