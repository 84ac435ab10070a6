"""Retry requests to a server after transient failures, with exponential backoff and jitter."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NoReturn, TypeVar

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_when_event_set,
    wait_exponential,
    wait_random_exponential,
)

from vilbert.pipeline.errors import ShardError

logger = logging.getLogger(__name__)
_Result = TypeVar("_Result")

ATTEMPTS = 6
FIRST_WAIT_SECONDS = 1.0
"""Maximum wait before the second attempt; it doubles for each further one, 31 seconds in total."""
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
"""Errors that are not retried."""


_hurry = threading.Event()


def hurry() -> None:
    """Make `ask_again` in all threads stop waiting and try only once, because the process is shutting down."""
    _hurry.set()


@contextmanager
def patience() -> Iterator[None]:
    """Reset `hurry` at the end of the block."""
    try:
        yield
    finally:
        _hurry.clear()


def ask_again(ask: Callable[[], _Result], what: str) -> _Result:
    """Call `ask`, with retries, and return its result.

    Args:
        ask: The request.
        what: Description of the operation and its URL, for messages.

    Raises:
        ShardError: The last attempt failed. Errors in LASTING are raised immediately.
    """
    # Half of the wait is random, so that workers that failed at the same time do not retry at the same time.
    half = FIRST_WAIT_SECONDS / 2
    retrying = Retrying(
        retry=retry_if_exception(_may_pass),
        stop=stop_after_attempt(ATTEMPTS) | stop_when_event_set(_hurry),
        wait=wait_exponential(multiplier=half) + wait_random_exponential(multiplier=half),
        sleep=_sleep,
        before_sleep=lambda state: logger.warning(
            "%s failed (%s); trying again, %d of %d", what, _problem(state), state.attempt_number + 1, ATTEMPTS
        ),
        retry_error_callback=lambda state: _give_up(state, what),
    )
    return retrying(ask)


def _sleep(seconds: float) -> None:
    _hurry.wait(seconds)


def _may_pass(error: BaseException) -> bool:
    # The file systems of fsspec raise many kinds of errors.
    return isinstance(error, Exception) and not isinstance(error, (*LASTING, ShardError))


def _problem(state: RetryCallState) -> str:
    error = state.outcome.exception() if state.outcome else None
    return f"{type(error).__name__}: {error}"


def _give_up(state: RetryCallState, what: str) -> NoReturn:
    raise ShardError(
        f"{what} failed {state.attempt_number} times, at last with {_problem(state)}; check the server and the "
        "network, then run the same command again to resume"
    ) from (state.outcome.exception() if state.outcome else None)
