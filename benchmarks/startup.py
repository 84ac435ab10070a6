"""Start-up time of the command line: `vilbert --help` and the help of commands, beside a bare Python.

Each command runs in a process of its own, by turns, and the best of the rounds counts: other work on the machine only
makes a start slower. Exits with 1 where `vilbert --help` takes longer than the limit.
"""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import dataclass

import tyro

LIMIT_SECONDS = 0.5
"""For `vilbert --help`."""
COMMANDS = ("", "verify", "pretrain", "extract", "finetune vqa", "predict vqa")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    rounds: int = 10
    """Starts of each command."""


def seconds_of(command: list[str]) -> float:
    """Return the wall time of a process."""
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main(settings: Settings) -> int:
    """Measure, print a table, return 1 where the limit is exceeded."""
    lines = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "python -c 'import pydantic, tyro'": [sys.executable, "-c", "import pydantic.dataclasses, tyro"],
    }
    for name in COMMANDS:
        words = [*name.split(), "--help"]
        lines[f"vilbert {' '.join(words)}"] = [sys.executable, "-m", "vilbert.pipeline.cli", *words]
    best = dict.fromkeys(lines, float("inf"))
    for _ in range(settings.rounds):
        for name, command in lines.items():
            best[name] = min(best[name], seconds_of(command))
    bare = best["python -c pass"]
    print("| command | seconds | ratio to a bare Python | limit |\n|---|---:|---:|---:|")
    for name, seconds in best.items():
        limit = f"{LIMIT_SECONDS}" if name == "vilbert --help" else ""
        print(f"| `{name}` | {seconds:.2f} | {seconds / bare:.1f} | {limit} |")
    return int(best["vilbert --help"] > LIMIT_SECONDS)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
