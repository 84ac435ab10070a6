"""Signal handlers for the length of a `with` block, and processes that end when they must."""

from __future__ import annotations

import atexit
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from types import FrameType
from typing import NoReturn

Handler = Callable[[int, FrameType | None], object] | int | None


@contextmanager
def handling(handler: Handler, *numbers: signal.Signals) -> Iterator[None]:
    """Let `handler` take these signals; afterwards they go where they went before. A thread gets none: there, nothing.

    handler: a function of the signal's number and the frame, or what `signal.getsignal` returns.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, handler_before in previous.items():
            signal.signal(number, handler_before)


_interrupted = threading.Event()


def interrupt(signum: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, a handler of signals, and let `noting_interrupts` know."""
    _interrupted.set()
    raise KeyboardInterrupt


@contextmanager
def terminate_like_interrupt() -> Iterator[None]:
    """Let SIGTERM, which schedulers send before they kill, end the block as Ctrl-C does: by KeyboardInterrupt."""
    with handling(interrupt, signal.SIGTERM):
        yield


@contextmanager
def noting_interrupts() -> Iterator[threading.Event]:
    """Yield an event that is set when KeyboardInterrupt is raised for Ctrl-C, or by `interrupt`.

    Libraries of native code can replace that exception by one of their own, so its type does not always tell. Handlers
    that the caller has set for Ctrl-C are left alone.
    """
    _interrupted.clear()
    with ExitStack() as stack:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            stack.enter_context(handling(interrupt, signal.SIGINT))
        yield _interrupted


@contextmanager
def keeping_handlers() -> Iterator[None]:
    """Let SIGTERM go where it went before, once the block is over that gives it a handler of its own, which exits.

    Where it comes before that, it is KeyboardInterrupt.
    """
    try:
        with handling(signal.getsignal(signal.SIGTERM), signal.SIGTERM):
            yield
    except SystemExit as error:
        raise KeyboardInterrupt from error


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM for a block that takes seconds and ends what they are to end."""
    with handling(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM):
        yield


PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Have the system kill this process as soon as its parent has ended, however that ends.

    parent: the process that started it, in case that has ended already. Source: prctl(2). Elsewhere than on Linux
    nothing happens. It is the thread that forked whose end counts.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def leave_now(status: int) -> NoReturn:
    """End the process with this status although threads of it hang in native code, where nothing reaches them.

    An ordinary exit would wait for them for ever. What they held, the system takes back.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def abandon(ended: threading.Event) -> None:
    """End the process with status 130, as interrupted, if a daemon thread still runs when the process exits.

    An ordinary exit ends such a thread as it returns from native code, and C++ and Rust then abort the process.

    ended: set by the thread as it ends. `Thread.is_alive` is False after a `join` that Ctrl-C ended (Python 3.11).
    """

    def leave() -> None:
        if not ended.is_set():
            leave_now(130)

    atexit.register(leave)
