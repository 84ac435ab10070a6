"""Record the command line of this process for reports; worker processes inherit it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

VARIABLE = "VILBERT_COMMAND"
"""Environment variable with the command line; workers of torchrun and of a local Ray inherit it."""


@contextmanager
def recorded_command(arguments: Sequence[str]) -> Iterator[None]:
    """Record the command line, without the leading `vilbert`, while the command runs."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = f"vilbert {shlex.join(map(_shown, arguments))}"
    try:
        yield
    finally:
        os.environ.pop(VARIABLE)
        if before is not None:
            os.environ[VARIABLE] = before


def command_line() -> str | None:
    """Return the current command line without credentials; None if it was not started from the command line."""
    return os.environ.get(VARIABLE)


def _shown(word: str) -> str:
    """Return an argument without the user, password and query of a URL, which can contain credentials."""
    from vilbert.pipeline.urls import public_url

    if "://" not in word:
        return word
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    try:
        return option + equals + public_url(value)
    except ValueError:  # not a URL
        return f"{option}{equals}..."
