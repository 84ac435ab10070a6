"""Start a job in a session of its own, watch it, kill it with all its processes."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.chaos_peers.job import Job

MAX_SECONDS = 3600.0
"""Of one start, after which the run counts as failed."""
RAY_RESOURCES = '{"CPU": 4}'
"""Logical CPUs of Ray, the same for all. Ray Data's and Daft's actors that filter IDs take one or two; on a machine of
two CPUs the detector or its input would wait forever."""
RAY_TOKEN = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
"""Ray reads them as it is imported. Without them, other users of the machine could run code in the cluster."""
MARK = {"CHAOS_PEERS_JOB": secrets.token_hex(16)}
"""In the environment of the processes of all jobs of this benchmark."""
SETTLE_SECONDS = 20.0
"""For which the processes of a killed run are waited for."""


def start(framework: str, folder: Path, output: Path, job: Job, log: Path) -> psutil.Popen:
    """Start a framework's job; its messages are appended to `log`."""
    sizes = {"images": job.images, "shard-size": job.shard_size, "batch-size": job.batch_size}
    options = [text for name, value in sizes.items() for text in (f"--job.{name}", str(value))]
    command = [sys.executable, "-m", "benchmarks.chaos_peers", "--run", framework, str(folder), str(output), *options]
    with log.open("ab") as messages:
        environment = os.environ | {"RAY_OVERRIDE_RESOURCES": RAY_RESOURCES, **RAY_TOKEN, **MARK}
        return psutil.Popen(command, stdout=messages, stderr=messages, start_new_session=True, env=environment)


def kill(process: psutil.Popen) -> None:
    """Kill a job with all its processes at once (SIGKILL), and wait until they are gone."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kill_processes()


def kill_processes() -> None:
    """Kill what is left of all jobs: a framework may start processes that are no children of the job."""
    victims = [process for process in psutil.process_iter() if _is_of_a_job(process)]
    for victim in victims:
        with suppress(psutil.NoSuchProcess):
            victim.kill()
    psutil.wait_procs(victims, timeout=SETTLE_SECONDS)


def _is_of_a_job(process: psutil.Process) -> bool:
    try:
        is_marked: bool = MARK.items() <= process.environ().items()
    except (psutil.Error, OSError):
        return False
    return is_marked


class Watched(NamedTuple):
    """What a job did while it was watched."""

    ended: bool
    """Whether it ended by itself."""
    seconds: float | None
    """From its start to its first new file of samples, or to its end if it wrote none; None if neither happened."""


def watch(process: psutil.Popen, output: Path, results: str, limit: float = MAX_SECONDS) -> Watched:
    """Wait until a job ends, at most `limit` seconds, then kill it.

    Args:
        process: The job, just started.
        output: Its output folder.
        results: Pattern of its files of samples.
        limit: Seconds after which it is killed.
    """
    before = set(output.glob(results))
    begun = time.monotonic()
    first: float | None = None
    while process.poll() is None and time.monotonic() - begun < limit:
        if first is None and set(output.glob(results)) - before:
            first = time.monotonic() - begun
        time.sleep(min(0.05, limit))
    ended = process.poll() is not None
    if ended and first is None:
        first = time.monotonic() - begun
    if ended:
        kill_processes()
    else:
        kill(process)
    return Watched(ended, first)
