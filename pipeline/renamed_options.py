"""Renamed and replaced options: the old spelling is rejected with a message that names the new one.

The TensorBoard switches, which many job scripts use, are still accepted on the command line, with a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence

logger = logging.getLogger(__name__)

DEPRECATED = {"--tensorboard": ("--tracker", "tensorboard"), "--no-tensorboard": ("--tracker", "none")}
"""Deprecated switches that are still accepted, and their replacements."""

RENAMED = {
    "tensorboard": "--tracker tensorboard",
    "no-tensorboard": "--tracker none",
    "max-words": "--max-tokens",
    "most-missing": "--max-missing-fraction",
    "least-answers": "--min-answer-count",
}
"""Old option name without leading dashes, and its replacement."""


def refuse_renamed(options: Iterable[str]) -> None:
    """Raise ValueError if an option of a command line or a key of a config file was renamed."""
    for option in options:
        name = option.partition("=")[0].removeprefix("--").replace("_", "-")
        if name in RENAMED:
            raise ValueError(f"--{name} was replaced; write {RENAMED[name]}")


def replace_deprecated(arguments: Sequence[str]) -> list[str]:
    """Replace deprecated switches of a command line, with a warning for each."""
    replaced: list[str] = []
    for argument in arguments:
        if argument in DEPRECATED:
            logger.warning("%s is deprecated; write %s", argument, " ".join(DEPRECATED[argument]))
        replaced += DEPRECATED.get(argument, (argument,))
    return replaced
