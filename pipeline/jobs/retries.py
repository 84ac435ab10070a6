"""`--retry-failed`: which shards have rows to try again, and how far a run that was interrupted came with them.

    DIR/.retry.json     {"reasons": […], "shards": […]}     the shards that are still to be made once more

The file exists while a retry is unfinished. The same command resumes it; other reasons start a new retry, and a run
without the option gives it up. A shard that was killed between its old record and its new one is made by all of them
from what is there: its images need not be had a second time.
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
"""Between two writes of it, at least. What is not written yet would be tried once more after a kill."""


@document
class RetryState:
    """The content of `.retry.json`."""

    reasons: List[str] | None
    """Those that are tried again; None for shards without a record that a retry left."""
    shards: List[Count]
    """The shards that are still to be made once more."""


class Retries:
    """The shards that are still to be made once more."""

    def __init__(self, folder: Folder, reasons: Sequence[str] | None, left: Iterable[int]) -> None:
        """Take the shards that are left of a retry for these reasons; None: of a run without the option."""
        self._folder = folder
        self._reasons = None if reasons is None else sorted(reasons)
        self.left = set(left)
        self._saved = float("-inf")

    def note(self, record: ShardRecord) -> None:
        """Take in a shard that got done, and save now and then."""
        if record.shard in self.left:
            self.left.remove(record.shard)
            if time.monotonic() - self._saved >= SAVE_SECONDS:
                self.save()

    def save(self) -> None:
        """Write down what is left; delete the file where nothing is."""
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

    shards: how many the data set has. reasons: those to try again; none: all of them.
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
    """Return, of an interrupted retry, the shards that have no record: what they hold is kept."""
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
