"""Processes that run the whole command, forked from one that has imported it: a start is then no matter of seconds."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, cast

# A request is a line of JSON: a command to start, answered by its process id, or one to wait for, answered by how it
# ended. What is started has a session of its own, as a shell gives a job. Curves are left out, which take longest.
TRAINING = """
import torch._dynamo  # the optimizer imports it at its first step
from transformers import AutoTokenizer, BertTokenizer
import vilbert.pipeline.pages.curves
import vilbert.pipeline.train.pretraining.run
from vilbert.pipeline.train.engine import loop

vilbert.pipeline.pages.curves.svg = lambda entries: "<svg/>"
"""
CODE = """
import json, os, signal, sys, time
import torch
from vilbert.pipeline.cli import main

torch.set_num_threads(1)


def pause(step, until):
    train_step = loop.train_step

    def paused(training, *parts):
        while training.step == step and not os.path.exists(until):
            time.sleep(0.005)
        return train_step(training, *parts)

    loop.train_step = paused


def fail(rank, step, error):
    train_step = loop.train_step

    def failing(training, *parts):
        if training.step == step and os.environ.get("RANK", "0") == str(rank):
            raise {"OutOfMemoryError": torch.OutOfMemoryError}.get(error, RuntimeError)("as the test wants it")
        return train_step(training, *parts)

    loop.train_step = failing


def begin(request):
    os.setsid()
    log = os.open(request["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number, target in enumerate((os.open(os.devnull, os.O_RDONLY), log, log)):
        os.dup2(target, number)
    os.environ.update(request["environment"])
    if request["pause"]:
        pause(*request["pause"])
    if request["fail"]:
        fail(*request["fail"])
    sys.exit(main(request["arguments"]))


def wait(process, seconds=240):
    for _ in range(seconds * 100):
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(process, signal.SIGKILL)
    return "still running"


for line in sys.stdin:
    request = json.loads(line)
    if "wait" in request:
        print(json.dumps(wait(request["wait"])), flush=True)
    elif process := os.fork():
        print(process, flush=True)
    else:
        begin(request)
"""


class Forks:
    """Starts and waits for processes that run `vilbert`."""

    def __init__(self, source: subprocess.Popen[str]) -> None:
        self._source = source

    def _ask(self, request: dict[str, object]) -> int:
        print(json.dumps(request), file=cast(IO[str], self._source.stdin), flush=True)
        return cast(int, json.loads(cast(IO[str], self._source.stdout).readline()))

    def start(
        self,
        arguments: Sequence[str],
        log: Path,
        *,
        environment: dict[str, str] | None = None,
        pause: tuple[int, Path] | None = None,
        fail: tuple[int, int, str] | None = None,
    ) -> int:
        """Start a command and return its process, the leader of a group.

        pause: (steps done, until a file is there). fail: (rank, steps done, the error's type).
        """
        stop = None if pause is None else [pause[0], str(pause[1])]
        return self._ask(
            {
                "arguments": list(arguments),
                "log": str(log),
                "environment": environment or {},
                "pause": stop,
                "fail": fail,
            }
        )

    def wait(self, process: int) -> int:
        """Return the exit status of a process, minus a signal's number where one ended it."""
        return self._ask({"wait": process})

    def run_ranks(self, arguments: Sequence[str], log: Path, *, world: int) -> list[int]:
        """Run a command on so many ranks, as torchrun would, and return their exit statuses."""
        return [self.wait(rank) for rank in self.start_ranks(arguments, log, world=world)]

    def start_ranks(
        self,
        arguments: Sequence[str],
        log: Path,
        *,
        world: int,
        fail: tuple[int, int, str] | None = None,
        refused: int | None = None,
    ) -> list[int]:
        """Start a command on so many ranks, as torchrun would, and return their processes.

        fail: see `start`. refused: the rank that asks for a GPU, of which none is visible.
        """
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        joined = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": str(world)}
        return [
            self.start(
                [*arguments, "--device", "cuda"] if rank == refused else arguments,
                log,
                environment={**joined, "RANK": str(rank), "LOCAL_RANK": str(rank), "CUDA_VISIBLE_DEVICES": ""},
                fail=fail,
            )
            for rank in range(world)
        ]


@contextmanager
def forking(prepare: str = TRAINING) -> Iterator[Forks]:
    """Yield what starts processes; it ends with the block. prepare: the code that imports what they need."""
    command = [sys.executable, "-c", prepare + CODE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as source:
        yield Forks(source)
        source.kill()


def wait_for_lines(path: Path, lines: int, log: Path, *, seconds: float = 60) -> None:
    """Wait until the file has so many lines; fail with the log where it does not come to that."""
    deadline = time.monotonic() + seconds
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.002)
