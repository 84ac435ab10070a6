"""The run's log: a line for each shard that was assigned, finished or lost, with its number and attempt.

    DIR/.run.log     2026-11-27T06:12:03+0000 WARNING shard 12, attempt 1: its worker was lost (…); trying again

Runs append to it. It also contains what the terminal shows of a job. It is not part of the data set.
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
"""Level of lines that are written to the file only, because there is one per shard."""
shard_log.propagate = False
shard_log.addHandler(logging.NullHandler())
LOGGED = ("vilbert.pipeline.extract", "vilbert.pipeline.rebuild", "vilbert.pipeline.jobs")
"""Packages whose log messages are written to the file."""


class _Quiet(logging.FileHandler):
    """Ignores errors of the log; a full disk ends the run when a shard is written."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  the library's name
        """Do nothing."""


def log_folder(place: Place) -> Path:
    """Return the folder of a data set's log: its own or, if it is behind a URL, a local one."""
    if isinstance(place, Path):
        return place
    folder = Path(tempfile.gettempdir()) / f"vilbert-logs-{os.getuid()}"
    return folder / hashlib.sha256(place.encode()).hexdigest()[:16]


@contextmanager
def run_log(folder: Path) -> Iterator[Path | None]:
    """Append this package's log messages of a job to the file in the folder; yield its path, None without a file."""
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
