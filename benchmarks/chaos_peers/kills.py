"""Start a job in a session of its own, kill it with all its processes, run it to its end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

from benchmarks.chaos_peers.job import Job

MAX_SECONDS = 1800.0
"""Of one run, after which it counts as failed."""
RAY_RESOURCES = '{"CPU": 4}'
"""Logical CPUs of Ray, the same for all. Ray Data's and Daft's actors that filter IDs take one or two; on a machine of
two CPUs the detector or its input would wait forever."""
SETTLE_SECONDS = 20.0
"""For which the processes of a killed run are waited for."""


def start(framework: str, folder: Path, output: Path, job: Job, log: Path) -> psutil.Popen:
    """Start a framework's job; its messages are appended to `log`."""
    sizes = {"images": job.images, "shard-size": job.shard_size, "batch-size": job.batch_size}
    options = [text for name, value in sizes.items() for text in (f"--job.{name}", str(value))]
    command = [sys.executable, "-m", "benchmarks.chaos_peers", "--run", framework, str(folder), str(output), *options]
    with log.open("ab") as messages:
        environment = os.environ | {"RAY_OVERRIDE_RESOURCES": RAY_RESOURCES}
        return psutil.Popen(command, stdout=messages, stderr=messages, start_new_session=True, env=environment)


def kill(process: psutil.Popen) -> None:
    """Kill a job with all its processes at once (SIGKILL), and wait until they are gone."""
    victims = [process, *process.children(recursive=True)]
    os.killpg(process.pid, signal.SIGKILL)
    for victim in victims:
        try:
            victim.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(victims, timeout=SETTLE_SECONDS)


def kill_after(process: psutil.Popen, seconds: float) -> bool:
    """Kill a job after so many seconds; return False if it ended before that."""
    try:
        process.wait(timeout=seconds)
    except (psutil.TimeoutExpired, subprocess.TimeoutExpired):
        kill(process)
        return True
    return False


def finish(process: psutil.Popen, output: Path, results: str) -> tuple[bool, float]:
    """Wait for the end of a job.

    Args:
        process: The job.
        output: Its output folder.
        results: Pattern of its files of samples.

    Returns:
        Whether it succeeded, and the seconds until it wrote a file of samples, or until its end if it wrote none.
    """
    before = set(output.glob(results))
    begun = time.monotonic()
    first: float | None = None
    while process.poll() is None and time.monotonic() - begun < MAX_SECONDS:
        if first is None and set(output.glob(results)) - before:
            first = time.monotonic() - begun
        time.sleep(0.05)
    if process.poll() is None:
        kill(process)
    return process.returncode == 0, time.monotonic() - begun if first is None else first
