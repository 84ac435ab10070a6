"""Ask a server again where it failed for a while: with growing, scattered waits, a bounded number of times."""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from vilbert.pipeline.errors import ShardError

logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")

ATTEMPTS = 6
FIRST_WAIT_SECONDS = 1.0
"""Before the second attempt, up to; twice as long before each further one, 31 seconds in all."""
LASTING = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    NotADirectoryError,
    IsADirectoryError,
    NotImplementedError,
    ImportError,
    TypeError,
    ValueError,
)
"""Errors that asking again does not mend."""


_hurry = threading.Event()


def hurry() -> None:
    """Let `ask_again`, in whichever thread, wait no more and ask once: the process is to end within seconds."""
    _hurry.set()


@contextmanager
def patience() -> Iterator[None]:
    """Have hurry end with the block."""
    try:
        yield
    finally:
        _hurry.clear()


def ask_again(ask: Callable[[], _Result], what: str) -> _Result:
    """Return what `ask` returns, called again where it fails.

    what: what is done to which URL, for messages. Raises the errors of LASTING at once, and ShardError for any other
    when the last attempt failed.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return ask()
        except (*LASTING, ShardError):
            raise
        except Exception as error:  # file systems behind fsspec raise errors of their own kinds
            problem = f"{type(error).__name__}: {error}"
            if attempt == ATTEMPTS or _hurry.is_set():
                raise ShardError(
                    f"{what} failed {attempt} times, at last with {problem}; check the server and the network, then "
                    "run the same command again to resume"
                ) from error
            logger.warning("%s failed (%s); trying again, %d of %d", what, problem, attempt + 1, ATTEMPTS)
            # Half of the wait is drawn, so that workers which failed together do not come back together.
            scatter = secrets.randbelow(1000) / 1000
            _hurry.wait(FIRST_WAIT_SECONDS * 2 ** (attempt - 1) * (0.5 + 0.5 * scatter))
    raise AssertionError("unreachable: the last attempt returns or raises")
