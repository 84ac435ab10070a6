"""Determine which shards are finished from one listing of the output folder.

A shard's record is its last file, so a shard with a record is finished unless its files were changed afterwards. To
detect changes without reading a hundred thousand records at every start, a run stores the sizes of each shard's files
in `.done.npy`. A shard is finished if its files have these sizes, and its record and failures were not changed after
`.done.npy` was written. For other shards, the record and the failures are read and compared. The file is a cache, not
part of the data set: it may be deleted, and when all shards are finished its content depends on the shards only.
"""

from __future__ import annotations

import hashlib
import io
import logging
import time
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import CorruptShardError, ShardError
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.location.layout import (
    FAILURES_FOLDER,
    SHARDS_FOLDER,
    failures_path,
    record_path,
    shard_files,
)
from vilbert.pipeline.shards.record import ShardRecord, read_record
from vilbert.untrusted.arrays import read_npy

logger = logging.getLogger(__name__)

DONE_FILE = ".done.npy"
SAVE_SECONDS = 60.0
"""Minimum seconds between two writes of the file."""
_AT_ONCE = 1000
_RECORD, _DATA, _FAILED = range(3)


class DoneShards:
    """The finished shards, and the sizes by which a later run recognises them."""

    def __init__(self, folder: Folder, known: NDArray[np.int64], *, changed: bool) -> None:
        """Store int64 [shards, 3]: bytes of the record, bytes of the samples, failed rows; -1 for unfinished."""
        self._folder = folder
        self._known = known
        self._changed = changed
        self._saved = time.monotonic()

    @property
    def failed_rows(self) -> int:
        """Number of failed rows of all finished shards."""
        return int(np.maximum(self._known[:, _FAILED], 0).sum())

    def pending(self) -> list[int]:
        """Return the unfinished shards, in order."""
        missing: list[int] = np.flatnonzero(self._known[:, _RECORD] < 0).tolist()
        return missing

    def failing(self) -> list[int]:
        """Return the finished shards with failed rows, in order."""
        some: list[int] = np.flatnonzero(self._known[:, _FAILED] > 0).tolist()
        return some

    def forget(self, shards: Collection[int]) -> None:
        """Mark shards as unfinished, so that they are made again."""
        self._known[list(shards)] = -1
        self._changed = self._changed or bool(shards)

    def note(self, record: ShardRecord) -> None:
        """Add a finished shard, and save from time to time."""
        self._known[record.shard] = _facts(record)
        self._changed = True
        if time.monotonic() - self._saved >= SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Write the file if it changed. If that fails, only the next start takes longer."""
        if not self._changed:
            return
        content = io.BytesIO()
        np.save(content, self._known, allow_pickle=False)
        try:
            self._folder.write(DONE_FILE, content.getvalue())
            self._changed = False
        except (OSError, ShardError) as error:
            logger.warning("%s: %s cannot be written: %s", self._folder.name, DONE_FILE, error)
        self._saved = time.monotonic()


def find_done(folder: Folder, info: DatasetInfo, *, sweep: bool = False) -> DoneShards:
    """List the folder and return which shards of the plan are finished. No file of samples is read.

    sweep: also delete unfinished files of killed runs; use it only while no other process writes there. Raises
    UnsupportedFormatError if a newer version wrote a record, because it must not be overwritten.
    """
    listed = list_files(folder, info, sweep=sweep)
    noted = _read_noted(folder, info.shards)
    same = listed.present & (listed.changed <= folder.changed(DONE_FILE))
    same &= (noted[:, _RECORD] == listed.record) & (noted[:, _DATA] == listed.data)
    same &= (noted[:, _FAILED] == 0) == (listed.failures == 0)
    known = np.where(same[:, None], noted, -1)
    unknown: list[int] = np.flatnonzero(listed.present & ~same).tolist()
    for start in range(0, len(unknown), _AT_ONCE):
        for record in _read_done(folder, info, unknown[start : start + _AT_ONCE], listed.data):
            known[record.shard] = _facts(record)
    # Rewrite the file after reading records even if its content is unchanged: the next start need not read them.
    return DoneShards(folder, known, changed=bool(unknown) or not np.array_equal(known, noted))


class Listed(NamedTuple):
    """The files of the shards from listings; int64 [shards] each."""

    record: NDArray[np.int64]
    """Bytes of the record; -1 if the file does not exist."""
    data: NDArray[np.int64]
    """Bytes of the file of samples; -1 if the file does not exist."""
    failures: NDArray[np.int64]
    """Bytes of the file of failures; -1 if the file does not exist."""
    changed: NDArray[np.int64]
    """Time of the last change of the record or the failures, see `Entry.changed`."""

    @property
    def present(self) -> NDArray[np.bool_]:
        """Whether each shard has all its files, bool [shards]."""
        return (self.record >= 0) & (self.data >= 0) & (self.failures >= 0)


def list_files(folder: Folder, info: DatasetInfo, *, sweep: bool = False) -> Listed:
    """List the files of all shards of the plan."""
    kinds = {kind: np.full(info.shards, -1, np.int64) for kind in ("json", info.storage, "jsonl")}
    changed = np.zeros(info.shards, np.int64)
    for under in (SHARDS_FOLDER, FAILURES_FOLDER):
        for entry in folder.listing(under, sweep=sweep):
            number, _, kind = entry.name.partition(".")
            if kind in kinds and entry.size is not None and number.isdecimal() and int(number) < info.shards:
                shard = int(number)
                kinds[kind][shard] = entry.size
                if kind != info.storage:
                    changed[shard] = max(changed[shard], entry.changed)
    return Listed(kinds["json"], kinds[info.storage], kinds["jsonl"], changed)


def _read_done(
    folder: Folder, info: DatasetInfo, shards: Sequence[int], data_bytes: NDArray[np.int64]
) -> Iterator[ShardRecord]:
    """Yield the undamaged records of these shards that match the plan and the files beside them."""
    files = {shard: shard_files(shard, info.storage) for shard in shards}
    with folder.local([name for failures, _, record in files.values() for name in (failures, record)]) as directory:
        for shard in shards:
            try:
                record = read_record(record_path(directory, shard))
            except CorruptShardError:
                continue
            failures = failures_path(directory, shard).read_bytes()
            agrees = f"{SHARDS_FOLDER}/{record.file}" == files[shard][1] and record.bytes == data_bytes[shard]
            planned = record.rows == info.shard_rows(shard) and record.fingerprint == info.fingerprint
            if agrees and planned and hashlib.sha256(failures).hexdigest() == record.failures_sha256:
                yield record


def _facts(record: ShardRecord) -> tuple[int, int, int]:
    return len(record.to_json()), record.bytes, sum(record.failures.values())


def _read_noted(folder: Folder, shards: int) -> NDArray[np.int64]:
    """Return the sizes stored by an earlier run, int64 [shards, 3]; all -1 if they cannot be used."""
    with folder.local([DONE_FILE]) as directory:
        try:
            noted = read_npy(directory / DONE_FILE)
        except (OSError, ValueError):
            noted = None
    if noted is None or noted.shape != (shards, 3) or noted.dtype != np.int64:
        return np.full((shards, 3), -1, np.int64)
    return noted.copy()  # the array that was read is read-only
