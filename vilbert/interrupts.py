"""Delay signals while a file is read.

Ctrl-C raises KeyboardInterrupt at any Python instruction, and native code that called Python may replace it with an
exception of its own: PyTorch turns it into a ValueError while safetensors reads a file. The file would then be reported
as damaged.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def delayed_interrupts() -> Iterator[None]:
    """Deliver SIGINT and SIGTERM to their previous handlers at the end of the block.

    The block should take a few seconds at most. Outside the main thread, which receives no signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    is_delayed = True
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    handled = {
        number: handler for number, handler in before.items() if callable(handler)
    }  # neither SIG_IGN nor SIG_DFL

    def delay(number: int, frame: FrameType | None) -> None:
        if is_delayed:
            received.append(number)
        else:  # a handler raised while they were restored, so this one stays
            handled[signal.Signals(number)](number, frame)

    try:
        for number in handled:
            signal.signal(number, delay)
        yield
    finally:
        is_delayed = False
        for number, handler in handled.items():
            signal.signal(number, handler)
        for received_number in received:
            signal.raise_signal(received_number)
