"""Options that were renamed or replaced: the old spelling is refused with the new one in the message.

The switches for TensorBoard, which are in many job scripts, are still accepted on the command line, with a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

logger = logging.getLogger(__name__)

DEPRECATED = {"--tensorboard": ("--tracker", "tensorboard"), "--no-tensorboard": ("--tracker", "none")}
"""Switches that are accepted for now, and what they stand for."""

RENAMED = {
    "tensorboard": "--tracker tensorboard",
    "no-tensorboard": "--tracker none",
    "max-words": "--max-tokens",
    "most-missing": "--max-missing-fraction",
    "least-answers": "--min-answer-count",
}
"""Old spelling, without dashes in front, to what is written now."""


def refuse_renamed(options: Iterable[str]) -> None:
    """Raise ValueError where an option of a command line, or a key of a config file, has an old spelling."""
    for option in options:
        name = option.partition("=")[0].removeprefix("--").replace("_", "-")
        if name in RENAMED:
            raise ValueError(f"--{name} was replaced; write {RENAMED[name]}")


def replace_deprecated(arguments: Sequence[str]) -> list[str]:
    """Return a command line with deprecated switches replaced, and warn about each."""
    replaced: list[str] = []
    for argument in arguments:
        if argument in DEPRECATED:
            logger.warning("%s is deprecated; write %s", argument, " ".join(DEPRECATED[argument]))
        replaced += DEPRECATED.get(argument, (argument,))
    return replaced
