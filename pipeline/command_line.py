"""The command line of this process, for reports: worker processes that it starts inherit it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

VARIABLE = "VILBERT_COMMAND"
"""An environment variable, because it reaches the workers of torchrun and of a Ray that is started here."""


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
    """Return the command line that runs, without credentials; None where Python code called the functions."""
    return os.environ.get(VARIABLE)


def _shown(word: str) -> str:
    """Return a word of the command line without user, password and query, which can hold keys."""
    from vilbert.pipeline.urls import public_url

    if "://" not in word:
        return word
    option, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
    try:
        return option + equals + public_url(value)
    except ValueError:  # not a URL
        return f"{option}{equals}..."
