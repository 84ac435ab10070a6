"""Check a data set as a whole: the plan, stray files, the totals, keys across shards, and the manifest."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vilbert.manifests.manifest import Manifest
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.shards.checks.findings import RERUN, RESTORE, Finding, remake
from vilbert.pipeline.shards.checks.shard import ENOUGH, ShardReport, key_hash
from vilbert.pipeline.shards.dataset import DatasetInfo, encode_dataset, sum_records, sum_splits
from vilbert.pipeline.shards.index.names import ENERGON_FOLDER, shard_of_side_file
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.location.layout import (
    DATASET_FILE,
    FAILURES_FOLDER,
    JOURNALS_FOLDER,
    SHARDS_FOLDER,
    data_path,
    record_path,
    shard_name,
)
from vilbert.pipeline.shards.record import records_digest
from vilbert.pipeline.shards.storage.store import open_shard


def check_info(folder: Folder, info: DatasetInfo) -> Iterator[Finding]:
    """Check dataset.json by itself: it must be in canonical form and consistent."""

    def damaged(what: str) -> Finding:
        return Finding(code="dataset-damaged", where=DATASET_FILE, what=what, remedy=RESTORE)

    with folder.local([DATASET_FILE]) as directory:
        content = (directory / DATASET_FILE).read_bytes()
    if content != encode_dataset(info):
        yield damaged("is not in canonical form: bytes were changed")
    if info.limit is not None and info.rows > info.limit:
        yield damaged(f"{info.rows:,} rows are more than its limit of {info.limit:,}")


def check_files(folder: Folder, info: DatasetInfo) -> Iterator[Finding]:
    """Find foreign files in `shards/` and `failures/`, and leftovers of killed runs in a complete data set."""
    suffixes = {SHARDS_FOLDER: ("json", info.storage), FAILURES_FOLDER: ("jsonl",)}
    for under in ("", SHARDS_FOLDER, FAILURES_FOLDER, ENERGON_FOLDER):
        for name, size in sorted(folder.entries(under)):
            where = f"{under}/{name}" if under else name
            journals = name == JOURNALS_FOLDER and (size is not None or any(folder.entries(name)))
            if journals or (name.startswith(".") and name.endswith(".tmp")):
                if info.complete:
                    what = "a killed run left it behind"
                    yield Finding(code="leftover", where=where, what=what, remedy="delete it; it is not needed")
            elif under == SHARDS_FOLDER and size is not None and _is_side_file(name, info):
                continue
            elif under in suffixes and (size is None or not _belongs(name, suffixes[under], info.shards)):
                what = f"is no file of a data set of {info.shards:,} .{info.storage} shards"
                yield Finding(code="foreign-file", where=where, what=what, remedy="move it away")


def _is_side_file(name: str, info: DatasetInfo) -> bool:
    shard = shard_of_side_file(name)
    return info.storage == "tar" and shard is not None and shard < info.shards


def _belongs(name: str, suffixes: Sequence[str], shards: int) -> bool:
    number, _, suffix = name.partition(".")
    if suffix not in suffixes or not re.fullmatch(r"[0-9]{6,}", number):
        return False
    return int(number) < shards and number == shard_name(int(number))


def check_presence(info: DatasetInfo, present: Collection[int]) -> Iterator[Finding]:
    """Find the shards of the plan without a record; `present` are the shards with one."""
    missing = info.shards - len(present)
    if not info.complete:
        what = f"{len(present):,} of {info.shards:,} shards are done"
        yield Finding(code="incomplete", where=DATASET_FILE, what=what, remedy=RERUN)
        return
    for shard in islice((shard for shard in range(info.shards) if shard not in present), min(missing, ENOUGH)):
        where = record_path(Path(), shard).as_posix()
        what = "there is no record, so the shard is not done"
        yield Finding(code="record-missing", where=where, what=what, remedy=RERUN)
    if missing > ENOUGH:
        what = f"{missing:,} records are missing; the others are not listed"
        yield Finding(code="more", where=f"{SHARDS_FOLDER}/", what=what, remedy=RERUN)


def check_listed_sizes(
    reports: Sequence[ShardReport], listed: Mapping[str, int], info: DatasetInfo
) -> Iterator[Finding]:
    """Compare records with the sizes of a remote folder's files, by name in `shards/`, without reading the files."""
    for report in reports:
        if (record := report.record) is None:
            continue
        path, remedy = data_path(Path(), report.shard, info.storage), remake(shard_name(report.shard))
        size = listed.get(path.name)
        if size is None:
            yield Finding(code="data-missing", where=path.as_posix(), what="is not there", remedy=remedy)
        elif size != record.bytes:
            what = f"has {size:,} bytes, the record says {record.bytes:,}"
            yield Finding(code="data-size", where=path.as_posix(), what=what, remedy=remedy)


def check_totals(info: DatasetInfo, reports: Sequence[ShardReport]) -> Iterator[Finding]:
    """Compare a complete data set's totals with its records. Yields nothing if records are missing."""
    records = [report.record for report in reports if report.record is not None]
    if len(records) < info.shards:
        return
    totals = sum_records(records)
    where, remedy = DATASET_FILE, RERUN
    if totals != info.totals:
        yield Finding(
            code="totals", where=where, what=f"totals are {info.totals}, the records add up to {totals}", remedy=remedy
        )
    rows = totals.samples + sum(totals.failures.values()) + sum(totals.dropped.values())
    if rows != info.rows:
        what = f"samples, failures and dropped rows are {rows:,}, the rows {info.rows:,}"
        yield Finding(code="totals", where=where, what=what, remedy=remedy)
    if records_digest(records) != info.records_sha256:
        what = "records_sha256 is not that of the records: a record was changed, or dataset.json"
        yield Finding(
            code="records-changed", where=where, what=what, remedy="run `vilbert verify --deep`, it finds the shard"
        )
    if (splits := sum_splits(records)) != info.splits:
        what = f"splits are {info.splits}, the records add up to {splits}"
        yield Finding(code="totals", where=where, what=what, remedy=remedy)


def repeated(hashes: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """Return the values that occur more than once, ascending. Takes 16 bytes of memory per value."""
    ordered = np.concatenate([*hashes, np.empty(0, np.uint64)])
    ordered.sort()
    return np.unique(ordered[1:][ordered[1:] == ordered[:-1]])


def check_duplicates(folder: Folder, info: DatasetInfo, reports: Sequence[ShardReport]) -> Iterator[Finding]:
    """Find keys that are in several shards: by hash first, then by name in the few shards with equal hashes."""
    suspects = repeated([report.key_hashes for report in reports])
    places: dict[str, list[str]] = defaultdict(list)
    for report in reports if suspects.size else ():
        if not np.isin(report.key_hashes, suspects).any():
            continue
        name = data_path(Path(), report.shard, info.storage).as_posix()
        try:
            with folder.local([name]) as directory, open_shard(directory / name, verify=False) as reader:
                suspect_keys = [key for key in reader.keys() if key_hash(key) in suspects]  # noqa: SIM118 no mapping
        except ShardError:
            continue  # it was complete before and is being replaced; the next verify reads it
        for key in suspect_keys:
            places[key].append(name)
    for key, shards in [item for item in places.items() if len(item[1]) > 1][:ENOUGH]:
        yield Finding(
            code="duplicate-key",
            where=", ".join(shards),
            what=f"key {key} occurs {len(shards)} times",
            remedy="give every image an id of its own in the manifest, and extract into a new folder",
        )


def check_manifest(info: DatasetInfo, manifest: Manifest) -> Iterator[Finding]:
    """Compare the data set with the manifest as a whole."""
    remedy = "give the manifest that the data set was made from, or extract into a new folder"
    where = str(manifest.path)
    if manifest.hash != info.manifest_hash:
        what = f"its hash is {manifest.hash[:16]}…, the data set was made from {info.manifest_hash[:16]}…"
        yield Finding(code="manifest-hash", where=where, what=what, remedy=remedy)
    expected = min(manifest.rows, info.limit or manifest.rows)
    if info.rows != expected:
        what = f"has {manifest.rows:,} rows, which makes {expected:,} for the data set; it has {info.rows:,}"
        yield Finding(code="manifest-rows", where=where, what=what, remedy=remedy)
