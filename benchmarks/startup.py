"""Start-up time of the command line: `vilbert --help` and the help of commands, beside a bare Python.

Each command runs in a process of its own, by turns, and the best of the rounds counts: other work on the machine only
makes a start slower. Exits with 1 where `vilbert --help` takes longer than the limit.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import NamedTuple

import tyro

LIMIT_SECONDS = 0.5
LIMITED = "vilbert --help"
COMMANDS = ("", "verify", "pretrain", "extract", "finetune vqa", "predict vqa")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    rounds: int = 10
    """Starts of each command."""


class Start(NamedTuple):
    """What a start takes, in seconds."""

    wall: float
    cpu: float


def start(command: list[str]) -> Start:
    """Run a process and return its wall time and its CPU time, which depends less on other work."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Start(wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def main(settings: Settings) -> int:
    """Measure, print a table, return 1 where the limit is exceeded."""
    lines = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "python -c 'import pydantic, tyro'": [sys.executable, "-c", "import pydantic.dataclasses, tyro"],
    }
    for name in COMMANDS:
        words = [*name.split(), "--help"]
        lines[f"vilbert {' '.join(words)}"] = [sys.executable, "-m", "vilbert.pipeline.cli", *words]
    starts: dict[str, list[Start]] = {name: [] for name in lines}
    for _ in range(settings.rounds):
        for name, command in lines.items():
            starts[name].append(start(command))
    best = {name: Start(min(it.wall for it in found), min(it.cpu for it in found)) for name, found in starts.items()}
    bare = best["python -c pass"]
    print("| command | seconds | CPU seconds | ratio to a bare Python | limit, seconds |\n|---|---:|---:|---:|---:|")
    for name, found in best.items():
        limit = f"{LIMIT_SECONDS}" if name == LIMITED else ""
        print(f"| `{name}` | {found.wall:.2f} | {found.cpu:.2f} | {found.cpu / bare.cpu:.1f} | {limit} |")
    return int(best[LIMITED].wall > LIMIT_SECONDS)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
