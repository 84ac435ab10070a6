"""Signal handlers that apply inside a `with` block, and controlled ends of processes."""

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
    """Install a handler for some signals inside the block and restore the previous handlers afterwards.

    Does nothing outside the main thread, which is the only one that receives signals.

    Args:
        handler: A function of the signal number and the frame, or a value that `signal.getsignal` returns.
        numbers: The signals.
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
    """Handle a signal: raise KeyboardInterrupt and set the event of `noting_interrupts`."""
    _interrupted.set()
    raise KeyboardInterrupt


@contextmanager
def terminate_like_interrupt() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM inside the block; schedulers send SIGTERM before they kill a process."""
    with handling(interrupt, signal.SIGTERM):
        yield


@contextmanager
def noting_interrupts() -> Iterator[threading.Event]:
    """Yield an event that is set when KeyboardInterrupt is raised for Ctrl-C or by `interrupt`.

    Native libraries can replace that exception with their own, so the exception type alone is not reliable. A Ctrl-C
    handler that the caller has installed is not replaced.
    """
    _interrupted.clear()
    with ExitStack() as stack:
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            stack.enter_context(handling(interrupt, signal.SIGINT))
        yield _interrupted


@contextmanager
def keeping_handlers() -> Iterator[None]:
    """Restore the SIGTERM handler after a block that installs its own handler, which exits.

    If SIGTERM arrives inside the block, KeyboardInterrupt is raised.
    """
    try:
        with handling(signal.getsignal(signal.SIGTERM), signal.SIGTERM):
            yield
    except SystemExit as error:
        raise KeyboardInterrupt from error


@contextmanager
def undisturbed() -> Iterator[None]:
    """Ignore Ctrl-C and SIGTERM inside a short block that ends workers or processes."""
    with handling(signal.SIG_IGN, signal.SIGINT, signal.SIGTERM):
        yield


PR_SET_PDEATHSIG = 1


def end_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent ends for any reason. Linux only; source: prctl(2).

    The relevant event is the end of the thread that forked this process.

    Args:
        parent: Process id of the parent. If it has ended already, this process exits at once.
    """
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def leave_now(status: int) -> NoReturn:
    """Exit with this status even if threads hang in native code.

    A normal exit would wait for those threads for ever. The system releases their resources.
    """
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


def abandon(ended: threading.Event) -> None:
    """Exit with status 130 (interrupted) if a daemon thread still runs when the process exits.

    A normal exit ends such a thread as it returns from native code, and C++ and Rust then abort the process.

    Args:
        ended: Event that the thread sets as it ends. `Thread.is_alive` is not reliable: it is False after a `join` that
            Ctrl-C interrupted (Python 3.11).
    """

    def leave() -> None:
        if not ended.is_set():
            leave_now(130)

    atexit.register(leave)
