"""`--retry-failed`: the shards that have rows to try again, and the progress of an interrupted retry.

    DIR/.retry.json     {"reasons": […], "shards": […]}     the shards that are still to be made again

The file exists while a retry is unfinished. The same command resumes it, other reasons start a new retry, and a run
without the option abandons it. If a shard was killed between its old record and its new one, each of them makes it from
its existing samples, so its images are not read again.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence

from vilbert.documents import Count, List, document, from_json
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.jobs.done import DoneShards
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.record import ShardRecord, read_each_record
from vilbert.untrusted.documents import read_json

logger = logging.getLogger(__name__)

RETRY_FILE = ".retry.json"
SAVE_SECONDS = 10.0
"""Minimum seconds between two writes. Unwritten progress is repeated after a kill."""


@document
class RetryState:
    """The content of `.retry.json`."""

    reasons: List[str] | None
    """Reasons that are tried again; None for shards without a record that a retry left."""
    shards: List[Count]
    """The shards that are still to be made again."""


class Retries:
    """The shards that are still to be made again."""

    def __init__(self, folder: Folder, reasons: Sequence[str] | None, left: Iterable[int]) -> None:
        """Store the remaining shards of a retry for these reasons; None for a run without the option."""
        self._folder = folder
        self._reasons = None if reasons is None else sorted(reasons)
        self.left = set(left)
        self._saved = float("-inf")

    def note(self, record: ShardRecord) -> None:
        """Add a finished shard, and save from time to time."""
        if record.shard in self.left:
            self.left.remove(record.shard)
            if time.monotonic() - self._saved >= SAVE_SECONDS:
                self.save()

    def save(self) -> None:
        """Write the remaining shards; delete the file if no shard remains."""
        try:
            if self.left:
                state = {"reasons": self._reasons, "shards": sorted(self.left)}
                self._folder.write(RETRY_FILE, encode_json(state) + b"\n")
            else:
                self._folder.delete(RETRY_FILE)
        except (OSError, ShardError) as error:
            logger.warning("%s: %s cannot be written: %s", self._folder.name, RETRY_FILE, error)
        self._saved = time.monotonic()


def begin_retries(folder: Folder, done: DoneShards, shards: int, reasons: Sequence[str]) -> tuple[Retries, bool]:
    """Return the shards to retry, and whether this starts a retry rather than resumes one.

    shards: number of shards of the data set. reasons: reasons to try again; empty: all of them.
    """
    of, unfinished = _read(folder, shards)
    if of == tuple(sorted(reasons)):
        return Retries(folder, reasons, unfinished), False
    failing = done.failing()
    chosen = [
        record.shard
        for record in read_each_record(folder, failing)
        if not reasons or not record.failures.keys().isdisjoint(reasons)
    ]
    return Retries(folder, reasons, {*chosen, *unfinished.intersection(done.pending())}), True


def give_up_retries(folder: Folder, done: DoneShards, shards: int) -> Retries:
    """Return the shards of an interrupted retry that have no record; their samples are kept."""
    _, unfinished = _read(folder, shards)
    return Retries(folder, None, unfinished.intersection(done.pending()))


def _read(folder: Folder, shards: int) -> tuple[tuple[str, ...] | None, set[int]]:
    """Return the reasons of an interrupted retry and its remaining shards; None and no shards without a retry."""
    with folder.local([RETRY_FILE]) as directory:
        try:
            state = from_json(RetryState, read_json(directory / RETRY_FILE))
        except (OSError, ValueError):
            return None, set()
    return (state.reasons, set(state.shards)) if max(state.shards, default=-1) < shards else (None, set())
