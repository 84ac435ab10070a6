"""Measure the start-up time of the command line: the help of every command, compared with `python -c pass`.

Each command runs in a separate process. Commands take turns, and the fastest round counts, because other work on the
machine can only make a start slower. A first round, which is not counted, compiles the modules. The exit status is 1 if
a help takes more CPU seconds than the limit.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import NamedTuple

import tyro

from vilbert.pipeline.cli import COMMANDS

LIMIT_SECONDS = 0.5
TASK = "vqa"
"""The task of commands that have one."""


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
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=environment)
    wall, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Start(wall, after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime)


def main(settings: Settings) -> int:
    """Measure, print a table, return 1 where the limit is exceeded."""
    lines = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "python -c 'import pydantic, tyro'": [sys.executable, "-c", "import pydantic.dataclasses, tyro"],
    }
    helps = [[], *([*name.split(), *([TASK] if command.of_a_task else [])] for name, command in COMMANDS.items())]
    for words in helps:
        command = [*words, "--help"]
        lines[f"vilbert {' '.join(command)}"] = [sys.executable, "-m", "vilbert.pipeline.cli", *command]
    starts: dict[str, list[Start]] = {name: [] for name in lines}
    for command in lines.values():
        start(command)
    for _ in range(settings.rounds):
        for name, command in lines.items():
            starts[name].append(start(command))
    best = {name: Start(min(it.wall for it in found), min(it.cpu for it in found)) for name, found in starts.items()}
    bare = best["python -c pass"]
    print("| command | seconds | CPU seconds | ratio to `python -c pass` | CPU limit |\n|---|---:|---:|---:|---:|")
    for name, found in best.items():
        limit = f"{LIMIT_SECONDS}" if name.startswith("vilbert") else ""
        print(f"| `{name}` | {found.wall:.2f} | {found.cpu:.2f} | {found.cpu / bare.cpu:.1f} | {limit} |")
    return int(any(found.cpu > LIMIT_SECONDS for name, found in best.items() if name.startswith("vilbert")))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
