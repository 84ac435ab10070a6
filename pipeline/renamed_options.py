"""Options that were renamed or replaced: the old spelling is refused with the new one in the message."""

from __future__ import annotations

from collections.abc import Iterable

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
