"""Processes that make messages ahead of time for the process that started them, which takes them in order.

Each process has a socket of its own to its parent, and makes every n-th step. So a process that dies, at any moment, is
noticed at once: its socket ends, and no lock, queue or half-written message of it is in anybody's way. In the same way
a process ends when its parent closes the socket, and the system kills it when its parent ends.

    parent -> process: one empty message a step that may be made
    process -> parent: BUFFER and a file descriptor for each new piece of shared memory; MESSAGE and the message

Signals that schedulers and terminals send to all processes of a job are the parent's to act on: it may need further
messages for the step under way, so its processes ignore SIGINT and SIGTERM and end when it closes them.
"""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from multiprocessing.util import Finalize
from pathlib import Path
from weakref import WeakSet

from vilbert.pipeline.errors import LoaderError
from vilbert.pipeline.signals import end_with_parent

logger = logging.getLogger(__name__)

STALL_WARNING_SECONDS = 60.0
"""Wait for one message after which it is said which process is waited for, and again after as long."""
STALL_LIMIT_SECONDS = 600.0
"""Wait for a process that uses no CPU time, after which it counts as lost."""
CLOSE_SECONDS = 1.0  # for processes to end by themselves; a step that takes longer is not waited for
OF_THE_PARENT = (signal.SIGINT, signal.SIGTERM)
BUFFER, MESSAGE = b"B", b"M"

Make = Callable[[int], tuple[bytes, Sequence[int]]]
"""Return the message of a step, and the file descriptors of shared memory that it is the first to speak of."""

_connections: WeakSet[Connection] = WeakSet()
"""The parent's ends in this process. A process that is forked from it must not keep them open."""


@dataclass(kw_only=True)
class _Worker:
    """One process, as its parent sees it."""

    process: BaseProcess
    connection: Connection
    steps_left: int
    """Steps whose messages have not been read."""
    received: deque[tuple[bytes, list[int]]] = field(default_factory=deque)
    """Messages that were read and not asked for yet, each with the descriptors that came before it."""


class LoaderProcesses:
    """Makes the messages of consecutive steps in processes; use `close` when done."""

    def __init__(self, make: Make, steps: range, *, num_workers: int, prefetch: int, begin: Callable[[int], None]):
        """Start the processes.

        make: is called in a process with a step. prefetch: messages that a process is ahead of what was asked for.
        begin: is called first in each process with its number. Raises LoaderError where one cannot be started.
        """
        self._steps = steps
        self._workers: list[_Worker] = []
        # Runs before multiprocessing joins processes at exit, which would block for ever on open ones.
        self.close = Finalize(self, _end, args=(self._workers, os.getpid()), exitpriority=10)
        for number in range(min(num_workers, len(steps))):
            try:
                self._workers.append(_start(make, steps[number::num_workers], begin, number))
            except OSError as error:
                self.close()
                raise LoaderError(f"a data loading process cannot be started ({error}); lower --num-workers") from error
            for _ in range(prefetch):
                self._allow_step(self._workers[-1])

    def receive(self, step: int) -> tuple[bytes, list[int], int]:
        """Return the message of `step`, its new descriptors, and the number of the process; steps come in order.

        Raises LoaderError where any process has died, or the one that makes this step does nothing for so long that it
        counts as lost.
        """
        number = self._steps.index(step) % len(self._workers)
        worker = self._workers[number]
        stall = _Stall(worker.process.pid or 0, step)
        self._read(timeout=0)  # else a process would wait until its message is asked for, and make no other
        while not worker.received:
            if not self._read(timeout=1):
                stall.check()
        self._allow_step(worker)
        return *worker.received.popleft(), number

    def _read(self, timeout: float) -> bool:
        """Read what the processes have sent; return whether that was anything."""
        busy = {worker.connection: worker for worker in self._workers if worker.steps_left}
        ready = wait(list(busy), timeout)
        for connection in ready:
            worker = busy[connection]  # type: ignore[index] # `wait` gives back what it got
            try:
                worker.received.append(_receive(worker.connection))
            except (EOFError, OSError) as error:
                raise _death(worker.process) from error
            worker.steps_left -= 1
        return bool(ready)

    @staticmethod
    def _allow_step(worker: _Worker) -> None:
        with contextlib.suppress(OSError):  # it has ended: with all its steps done, or `_read` says so
            worker.connection.send_bytes(b"")


def _start(make: Make, steps: range, begin: Callable[[int], None], number: int) -> _Worker:
    ours, theirs = multiprocessing.Pipe()
    _connections.add(ours)
    process = multiprocessing.Process(
        target=_work, args=(theirs, make, steps, begin, number, os.getpid()), daemon=True, name=f"loader-{number}"
    )
    before = signal.pthread_sigmask(signal.SIG_BLOCK, OF_THE_PARENT)  # until the process ignores them
    try:
        process.start()
    except OSError:
        ours.close()
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        theirs.close()  # only the process may hold this end, so that its death closes the connection
    return _Worker(process=process, connection=ours, steps_left=len(steps))


def _work(
    connection: Connection, make: Make, steps: range, begin: Callable[[int], None], number: int, parent: int
) -> None:
    """Make the messages of `steps`, each when it may be made."""
    for number_of_signal in OF_THE_PARENT:
        signal.signal(number_of_signal, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, OF_THE_PARENT)
    end_with_parent(parent)
    for inherited in list(_connections):
        inherited.close()
    begin(number)
    for step in steps:
        try:
            connection.recv_bytes()
        except (EOFError, OSError):
            return  # the parent wants no more
        message, descriptors = make(step)
        try:
            for descriptor in descriptors:
                connection.send_bytes(BUFFER)
                _send_descriptor(connection, descriptor)
                os.close(descriptor)
            connection.send_bytes(MESSAGE)
            connection.send_bytes(message)
        except OSError:
            return


def _receive(connection: Connection) -> tuple[bytes, list[int]]:
    """Return a message and the descriptors before it; EOFError or OSError where the other side has ended."""
    descriptors: list[int] = []
    while connection.recv_bytes() == BUFFER:
        descriptors.append(_receive_descriptor(connection))
    return connection.recv_bytes(), descriptors


def _send_descriptor(connection: Connection, descriptor: int) -> None:
    with socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as end:
        socket.send_fds(end, [b"\0"], [descriptor])


def _receive_descriptor(connection: Connection) -> int:
    with socket.fromfd(connection.fileno(), socket.AF_UNIX, socket.SOCK_STREAM) as end:
        _, descriptors, _, _ = socket.recv_fds(end, 1, 1)
    if not descriptors:
        raise EOFError
    return descriptors[0]


def _end(workers: list[_Worker], parent: int) -> None:
    """Let the processes end, and kill those that do not at once."""
    for worker in workers:
        worker.connection.close()
        for _, descriptors in worker.received:
            for descriptor in descriptors:
                os.close(descriptor)
        worker.received.clear()
    if os.getpid() != parent:  # a fork of it, which has no business with them
        return
    deadline = time.monotonic() + CLOSE_SECONDS
    for worker in workers:
        worker.process.join(max(0.0, deadline - time.monotonic()))
    for worker in workers:
        if worker.process.is_alive():
            worker.process.kill()
    for worker in workers:
        worker.process.join(CLOSE_SECONDS)
    workers.clear()


def _death(process: BaseProcess) -> LoaderError:
    """Say how a process ended that had messages to send."""
    process.join(CLOSE_SECONDS)
    status, who = process.exitcode, f"a data loading process (process {process.pid})"
    again = "then run the same command again"
    if status is None:
        return LoaderError(f"{who} closed its connection before all batches were read; run the same command again")
    if status >= 0:
        return LoaderError(f"{who} ended with exit status {status} before all batches were read; {again[5:]}")
    name = signal.Signals(-status).name if -status in list(signal.Signals) else "unknown"
    said = f"{who} was killed by signal {-status} ({name})"
    if -status in (signal.SIGKILL, signal.SIGTERM):
        return LoaderError(f"{said}; is the machine out of memory? Lower --num-workers, {again}")
    return LoaderError(
        f"{said}; was a file truncated while it was read? Check the data sets with `vilbert verify`, {again}"
    )


class _Stall:
    """Watches the wait for one message."""

    def __init__(self, process: int, step: int) -> None:
        self._process, self._step = process, step
        self._begun = self._moved = self._said = time.monotonic()
        self._cpu = _cpu_ticks(process)

    def check(self) -> None:
        """Say who is waited for; raise LoaderError where that process has not moved for too long."""
        now, cpu = time.monotonic(), _cpu_ticks(self._process)
        if cpu != self._cpu:
            self._cpu, self._moved = cpu, now
        if now - self._moved > STALL_LIMIT_SECONDS:
            raise LoaderError(
                f"a data loading process (process {self._process}) used no CPU time for {now - self._moved:.0f} s and "
                f"did not finish batch {self._step}; is a disk or a network file system hanging? Then run the same "
                "command again, or give --num-workers 0"
            )
        if now - self._said > STALL_WARNING_SECONDS:
            self._said = now
            logger.warning(
                "waiting for batch %d for %.0f s; data loading process %d %s",
                self._step, now - self._begun, self._process,
                "is running" if self._moved == now else f"has used no CPU time for {now - self._moved:.0f} s",
            )  # fmt: skip


def _cpu_ticks(process: int) -> int | None:
    """Return the CPU time that a process has used; None where the system does not say."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])
    return None
