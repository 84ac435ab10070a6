"""Signals that wait until a file is read.

Ctrl-C raises KeyboardInterrupt wherever Python runs, and the native code that called Python may replace it by an
exception of its own: PyTorch makes it a ValueError while safetensors reads a file. The file would then be reported as
damaged.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def delayed_interrupts() -> Iterator[None]:
    """Deliver SIGINT and SIGTERM at the end of the block, to the handlers that they had before it.

    The block should take seconds at most. In a thread, which gets no signals, nothing happens.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    handled = {
        number: handler for number, handler in before.items() if callable(handler)
    }  # not ignored, not the default
    for number in handled:
        signal.signal(number, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])
