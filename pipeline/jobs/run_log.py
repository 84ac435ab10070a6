"""The run's log, a line for each shard that was given out, done or lost, with its number and attempt.

    DIR/.run.log     2026-11-27T06:12:03+0000 WARNING shard 12, attempt 1: its worker is lost (…); trying again

Runs append to it. What the terminal shows of a job is in it too. It is no part of the data set.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vilbert.pipeline.shards.location.folder import Place

LOG_FILE = ".run.log"
shard_log = logging.getLogger("vilbert.pipeline.jobs.shards")
"""For lines that go to the file alone: there are as many as shards."""
shard_log.propagate = False
shard_log.addHandler(logging.NullHandler())
LOGGED = ("vilbert.pipeline.extract", "vilbert.pipeline.rebuild", "vilbert.pipeline.jobs")
"""Packages whose log messages go to the file."""


class _Quiet(logging.FileHandler):
    """A disk that is full ends the run by its shards, not by its log."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the library's name
        """Do nothing."""


def log_folder(place: Place) -> Path:
    """Return the folder of a data set's log: its own, or where it is behind a URL, one of this machine."""
    if isinstance(place, Path):
        return place
    folder = Path(tempfile.gettempdir()) / f"vilbert-logs-{os.getuid()}"
    return folder / hashlib.sha256(place.encode()).hexdigest()[:16]


@contextmanager
def run_log(folder: Path) -> Iterator[Path | None]:
    """Append what this package logs of a job to the file in the folder; yield its path, None without a file."""
    path = folder / LOG_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handler = _Quiet(path, encoding="utf-8")
    except OSError:
        yield None
        return
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%S%z"))
    loggers = (*map(logging.getLogger, LOGGED), shard_log)
    shard_log.setLevel(logging.INFO)
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield path
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        handler.close()
