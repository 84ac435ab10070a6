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


@contextmanager
def delayed_interrupts() -> Iterator[None]:
    """Deliver SIGINT and SIGTERM to their previous handlers at the end of the block.

    The block should take a few seconds at most. Outside the main thread, which receives no signals, this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    received: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.getsignal(number) for number in numbers}
    handled = {
        number: handler for number, handler in before.items() if callable(handler)
    }  # neither SIG_IGN nor SIG_DFL
    for number in handled:
        signal.signal(number, lambda number, frame: received.append(number))
    try:
        yield
    finally:
        for number, handler in handled.items():
            signal.signal(number, handler)
        if received:
            signal.raise_signal(received[0])
