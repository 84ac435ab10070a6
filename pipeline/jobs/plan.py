"""The output of a run: a new data set, or the unfinished one of an earlier run with the same settings."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from vilbert.pipeline.errors import FingerprintError, OutputError, RefusedError, ShardError
from vilbert.pipeline.jobs.claims import CLAIMS_FILE
from vilbert.pipeline.jobs.done import DONE_FILE
from vilbert.pipeline.jobs.journals import Journals
from vilbert.pipeline.jobs.run_log import LOG_FILE
from vilbert.pipeline.jobs.run_state import RUN_FILE
from vilbert.pipeline.jobs.task_states import TASKS_FOLDER
from vilbert.pipeline.jobs.worker import Description
from vilbert.pipeline.shards.dataset import NOTHING, DatasetInfo, Tally, encode_dataset, read_info
from vilbert.pipeline.shards.index.names import ROOT_NAMES as SIDE_FILES
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.location.layout import (
    BROWSE_FOLDER,
    DATASET_FILE,
    JOURNALS_FOLDER,
    PLAN_FOLDER,
    SHARDS_FOLDER,
)
from vilbert.pipeline.shards.location.lease import LEASE_FOLDER
from vilbert.pipeline.shards.location.lock import LOCK_FILE
from vilbert.pipeline.shards.record import read_each_record
from vilbert.pipeline.shards.storage.atomic import is_temporary

FIXED = ("fields", "storage", "shard_size", "rows", "shard_starts", "manifest_hash", "steps", "fingerprint_fields")
"""Settings that a resumed run must share with the first run."""
UNNAMED = ("fingerprint_fields", "steps")
"""Settings whose parts are named separately in messages."""


def make_folder(folder: Folder) -> None:
    """Create the output folder; raise RefusedError if it is a file or a folder with other files than a data set."""
    folder.make()
    refuse_strangers(folder)


def refuse_strangers(folder: Folder) -> None:
    """Raise RefusedError if the output folder contains other files than a data set."""
    names = {name for name, _ in folder.entries("")}
    if DATASET_FILE in names:
        return
    # A run that was killed before it wrote dataset.json leaves its lock and possibly a partly written file. Side files
    # are rewritten at the end, except for a card that the user wrote.
    own = (
        PLAN_FOLDER,
        LOCK_FILE,
        LEASE_FOLDER,
        CLAIMS_FILE,
        TASKS_FOLDER,
        DONE_FILE,
        RUN_FILE,
        LOG_FILE,
        JOURNALS_FOLDER,
        BROWSE_FOLDER,
        *SIDE_FILES,
    )
    ours = {name for name in names if name in own or is_temporary(name)}
    if strangers := sorted(names - ours):
        raise OutputError(
            f"--output {folder.name}: holds {', '.join(strangers[:3])} but no {DATASET_FILE}; choose an empty folder"
        )


def begin_dataset(folder: Folder, planned: DatasetInfo, journals: Journals) -> None:
    """Write dataset.json, or check that the existing one has the same settings.

    Journals of a data set that no longer exists are deleted before, because they would accuse images of this one.
    Raises FingerprintError with every difference if the settings differ.
    """
    if has_dataset(folder):
        require_same(read_info(folder), planned, folder.name)
    else:
        journals.remove_all()
        folder.write(DATASET_FILE, encode_dataset(planned))


def require_same(found: DatasetInfo, planned: DatasetInfo, name: str) -> None:
    """Raise FingerprintError, with every difference, if the data set `found` differs from the plan."""
    was, now = ({name: getattr(info, name) for name in FIXED} for info in (found, planned))
    lines = "\n  ".join(differences(was, now))
    if lines:
        raise FingerprintError(
            f"{name}: holds a data set with other settings, which cannot be mixed with those of this run:\n  {lines}\n"
            "Run with the settings of the data set, or choose another --output"
        )


def has_dataset(folder: Folder) -> bool:
    """Return whether the folder contains a data set, finished or not."""
    return DATASET_FILE in {name for name, _ in folder.entries("")}


def is_complete(folder: Folder) -> bool:
    """Return whether the folder contains a data set with all its shards."""
    return has_dataset(folder) and read_info(folder).complete


def require_dataset(folder: Folder) -> None:
    """Raise RefusedError if there is no data set whose failed rows could be tried again."""
    if not has_dataset(folder):
        raise RefusedError(f"--retry-failed: {folder.name} holds no data set yet; run without it first")


def reopen_dataset(folder: Folder) -> None:
    """Mark the data set as incomplete in dataset.json, because its totals will change."""
    info = read_info(folder)
    reopened = dataclasses.replace(info, complete=False, totals=NOTHING, splits={}, records_sha256=None)
    if reopened != info:
        folder.write(DATASET_FILE, encode_dataset(reopened))


def check_alike(first: Description, other: Description) -> None:
    """Raise FingerprintError if a worker's detector differs from that of the first worker."""
    if lines := "; ".join(differences(first.fingerprint, other.fingerprint)):
        raise FingerprintError(
            f"the workers' detectors differ ({lines}): all must have the same weights and the same kind of device"
        )


def finish_dataset(folder: Folder, *, written: int) -> DatasetInfo:
    """Write the totals of all shards into dataset.json, and return it.

    written: number of shards that this run made. Records are read one after another, so they do not have to fit into
    memory. Raises ShardError if no shard was made and the records of a complete data set have changed.
    """
    info = read_info(folder)
    if info.complete and not written and folder.remote:
        return info  # otherwise every check of a finished data set would download all records
    tally, digest = Tally(), hashlib.sha256()
    for record in read_each_record(folder, range(info.shards)):
        tally.add(record)
        digest.update(record.to_json())  # same as `records_digest` of all records in order
    if info.complete and not written and digest.hexdigest() != info.records_sha256:
        raise ShardError(
            f"{folder.name}: the records in {SHARDS_FOLDER}/ do not match {DATASET_FILE}: one "
            f"of them or {DATASET_FILE} was changed. Run `vilbert verify {folder.name} --deep`, delete the "
            f"{SHARDS_FOLDER}/NNNNNN.json that it reports (any one if it reports none), and run the same command again"
        )
    if tally.rows != info.rows:
        raise ShardError(
            f"{folder.name}: the shards contain {tally.rows} rows, expected {info.rows}; "
            f"run: vilbert verify {folder.name}"
        )
    finished = dataclasses.replace(
        info, complete=True, totals=tally.totals(), splits=tally.splits(), records_sha256=digest.hexdigest()
    )
    if finished != info:
        folder.write(DATASET_FILE, encode_dataset(finished))
    return finished


def differences(was: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield a line per field that differs: `extractor.precision: "fp32" in the data set, "bf16" requested`."""
    for name in sorted(was.keys() | now.keys()):
        old, new = was.get(name), now.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, "" if name in UNNAMED else f"{prefix}{name}.")
        elif _are_objects(old) and _are_objects(new) and len(old) == len(new):
            for number, (item, other) in enumerate(zip(old, new, strict=True), start=1):
                yield from differences(item, other, f"{prefix}{name} {number}.")
        elif old != new:
            yield f"{prefix}{name}: {_short(old)} in the data set, {_short(new)} requested"


def _are_objects(value: object) -> TypeGuard[Sequence[Mapping[str, Any]]]:
    return isinstance(value, list | tuple) and all(isinstance(item, Mapping) for item in value)


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
