"""Check one shard against its record and failures and, in deep mode, every byte and its rows of the manifest.

Runs in a separate process. The result is small, whatever the size of the shard.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vilbert.manifests.manifest import Manifest
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.manifests.uri import mask_credentials
from vilbert.pipeline.errors import CorruptShardError, ShardError
from vilbert.pipeline.shards.checks.findings import Finding, reindex, remake
from vilbert.pipeline.shards.checks.sample import sample_problems
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.pipeline.shards.failures import FailureRow, read_failures
from vilbert.pipeline.shards.index.energon import encode_tar_index, parts_digest
from vilbert.pipeline.shards.index.energon import part_rows as index_parts
from vilbert.pipeline.shards.index.energon import sample_rows as index_samples
from vilbert.pipeline.shards.index.names import ENERGON_SQLITE, INDEX_FILE, TAR_INDEX_SUFFIX
from vilbert.pipeline.shards.index.sample_rows import index_rows, rows_digest
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.location.layout import (
    SHARDS_FOLDER,
    data_path,
    failures_path,
    record_path,
    shard_files,
    shard_name,
)
from vilbert.pipeline.shards.record import ShardRecord, count_names, read_record
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.storage.store import ShardReader, open_shard
from vilbert.pipeline.shards.storage.tar_store import TarReader

ENOUGH = 20
"""Maximum number of findings per shard; a shard with more should be rewritten as a whole."""


@dataclass(frozen=True, kw_only=True)
class ShardTask:
    """The input of a process that checks shards."""

    folder: Folder
    info: DatasetInfo
    deep: bool
    manifest: Manifest | None = None
    """Manifest to compare row by row, in deep mode."""
    side_files: frozenset[str] = frozenset()
    """Existing side files of other tools in the data set's folder."""


@dataclass(kw_only=True, eq=False)
class ShardReport:
    """The state of one shard so far, and its findings."""

    directory: Path
    shard: int
    findings: list[Finding] = field(default_factory=list)
    record: ShardRecord | None = None
    """None if it is missing or unreadable."""
    key_hashes: NDArray[np.uint64] = field(default_factory=lambda: np.empty(0, np.uint64))
    """[samples] `key_hash` of each key, in order; empty if the shard cannot be read."""
    rows_digest: str | None = None
    """Digest of the rows that index.parquet should have for the shard; None if they are not compared."""
    parts_digest: str | None = None
    """Digest of the rows that Energon's index.sqlite should have for it; None if they are not compared."""

    def add(self, code: str, path: Path, what: str, *, place: str = "") -> None:
        """Add a finding for the file at `path`; `place` is the position in it."""
        where = path.relative_to(self.directory).as_posix() + (f" {place}" if place else "")
        self.findings.append(Finding(code=code, where=where, what=what, remedy=remake(shard_name(self.shard))))


def key_hash(key: str) -> int:
    """Return a 64-bit hash of a key. Among 100 million keys, a collision occurs in about one of 4,000 data sets."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")


def problem_of(error: ShardError | ManifestError) -> str:
    """Return the problem that an error describes, without path and remedy, which a finding has separately."""
    if not isinstance(error, CorruptShardError):
        return str(error)
    return error.problem if error.offset is None else f"byte {error.offset}: {error.problem}"


def check_shard(task: ShardTask, shard: int) -> ShardReport:
    """Check a shard that has a record. A remote shard is downloaded completely only in deep mode."""
    failures, data, record = shard_files(shard, task.info.storage)
    large = [data, data.removesuffix(".tar") + TAR_INDEX_SUFFIX] if task.deep else []
    with task.folder.local([failures, record, *large]) as directory:
        return _check_files(task, shard, directory, opened=task.deep or not task.folder.remote)


def _check_files(task: ShardTask, shard: int, directory: Path, *, opened: bool) -> ShardReport:
    """Check a shard whose files are in `directory`, including the file of samples if `opened`."""
    report = ShardReport(directory=directory, shard=shard)
    path = record_path(directory, shard)
    try:
        report.record = record = read_record(path)
    except ShardError as error:
        report.add("record-damaged", path, problem_of(error))
        return report
    check_record(report, record, path, task.info)
    failures = check_failures(report, record, failures_path(directory, shard))
    data = data_path(directory, shard, task.info.storage)
    if not opened or not file_is_whole(report, record, data, hashed=task.deep):
        return report
    planned = record.rows == task.info.shard_rows(shard)  # otherwise its rows are not those of the manifest
    records = read_rows(report, record, task.manifest) if task.deep and planned else {}
    check_failed_rows(report, failures, records)
    try:
        with open_shard(data, verify=False) as reader:
            check_keys(report, record, reader)
            if task.deep:
                # A record may state any number of rows, so they are listed only if the files have as many.
                start, stop = record.rows
                complete = not record.dropped and len(reader) + len(failures) == stop - start
                rows = sample_rows(record, failures) if complete else []
                splits = check_samples(report, task.info, reader, rows, records)
                if splits != record.splits and not report.findings:  # otherwise samples may be missing in the count
                    report.add("count", data, f"its splits are {dict(splits)}, the record says {record.splits}")
            check_side_files_of(report, task, reader)
    except ShardError as error:
        report.add("data-damaged", data, problem_of(error))
    if len(report.findings) > ENOUGH:
        del report.findings[ENOUGH:]
        report.add("more", data, f"more than {ENOUGH} findings; the others are not listed")
    return report


def check_record(report: ShardReport, record: ShardRecord, path: Path, info: DatasetInfo) -> None:
    """Compare a record with the plan in dataset.json."""
    if path.read_bytes() != record.to_json():
        report.add("record-damaged", path, "is not in canonical form: bytes were changed")
    expected = info.shard_rows(report.shard)
    if record.rows != expected:
        report.add("rows", path, f"covers the rows {list(record.rows)}, the plan has {list(expected)}")
    if record.fingerprint != info.fingerprint:
        what = f"made with the settings {record.fingerprint[:16]}…, the data set's are {info.fingerprint[:16]}…"
        report.add("fingerprint", path, what)
    if not record.file.endswith(f".{info.storage}"):
        report.add("record-damaged", path, f"names {record.file} in a data set of .{info.storage} files")


def check_failures(report: ShardReport, record: ShardRecord, path: Path) -> Sequence[FailureRow]:
    """Compare a shard's failures with its record and return them, or nothing if the file cannot be used."""
    if not path.is_file():
        report.add("failures-missing", path, "is not there; without failures it would be an empty file")
        return ()
    if hashlib.sha256(path.read_bytes()).hexdigest() != record.failures_sha256:
        report.add("failures-changed", path, "its sha256 differs from its record")
    try:
        failures = read_failures(path)
    except ShardError as error:
        report.add("failures-damaged", path, problem_of(error))
        return ()
    reasons = count_names(failure.reason for failure in failures)
    if reasons != record.failures:
        report.add("failures-count", path, f"its reasons are {reasons}, the record has {record.failures}")
    rows = [failure.row for failure in failures]
    start, stop = record.rows
    if rows != sorted(set(rows)) or not all(start <= row < stop for row in rows):
        report.add("failures-rows", path, f"its rows do not ascend inside [{start}, {stop})")
        return ()
    return failures


def file_is_whole(report: ShardReport, record: ShardRecord, path: Path, *, hashed: bool) -> bool:
    """Compare the size and, if `hashed`, the hash of a file of samples with its record; return whether they match."""
    if not path.is_file():
        report.add("data-missing", path, "is not there")
        return False
    size = path.stat().st_size
    if size != record.bytes:
        report.add("data-size", path, f"has {size:,} bytes, the record says {record.bytes:,}")
        return False
    if hashed:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != record.sha256:
            report.add("data-changed", path, f"its sha256 is {digest[:16]}…, the record has {record.sha256[:16]}…")
            return False
    return True


def check_keys(report: ShardReport, record: ShardRecord, reader: ShardReader) -> None:
    """Compare a shard's index with its record, and store the hashes of its keys."""
    keys = reader.keys()
    report.key_hashes = np.fromiter(map(key_hash, keys), np.uint64, len(keys))
    if len(keys) != record.samples:
        report.add("count", reader.path, f"holds {len(keys)} samples, the record says {record.samples}")
    ends = (keys[0], keys[-1]) if keys else (None, None)
    if ends != (record.first_key, record.last_key):
        what = (
            f"begins with key {ends[0]} and ends with {ends[1]}, the record says {record.first_key}, {record.last_key}"
        )
        report.add("keys", reader.path, what)


def check_side_files_of(report: ShardReport, task: ShardTask, reader: ShardReader) -> None:
    """Compare a tar with its .tar.idx, and store the digests of its rows in the indexes of the whole data set."""
    if isinstance(reader, TarReader):
        path = reader.path.with_suffix(TAR_INDEX_SUFFIX)
        if path.is_file() and path.read_bytes() != encode_tar_index(reader.index):
            where = path.relative_to(report.directory).as_posix()
            what = "does not hold the offsets of the samples in the tar beside it"
            remedy = reindex(task.folder.name)
            report.findings.append(Finding(code="stale-side-file", where=where, what=what, remedy=remedy))
        if task.deep and ENERGON_SQLITE in task.side_files:
            report.parts_digest = parts_digest(index_samples(reader.index), index_parts(reader.index))
    if task.deep and INDEX_FILE in task.side_files:
        report.rows_digest = rows_digest(index_rows(reader, f"{SHARDS_FOLDER}/{reader.path.name}"))


def sample_rows(record: ShardRecord, failures: Sequence[FailureRow]) -> list[int]:
    """Return the manifest row of each sample, in order: the shard's rows without the failed ones."""
    failed = {failure.row for failure in failures}
    return [row for row in range(*record.rows) if row not in failed]


def check_samples(
    report: ShardReport,
    info: DatasetInfo,
    reader: ShardReader,
    rows: Sequence[int],
    records: Mapping[int, ImageRecord],
) -> Counter[str]:
    """Parse every sample, check its values, compare it with its manifest row, and return the samples by split.

    `rows` are the manifest rows of the samples; `records` are manifest rows by number, empty without a manifest.
    """
    splits: Counter[str] = Counter()
    aligned = bool(records) and len(rows) == len(reader)  # otherwise the rows of the samples are unknown
    for index, key in enumerate(reader.keys()):
        if len(report.findings) > ENOUGH:
            break
        try:
            sample = reader[index]
        except ShardError as error:
            report.add("sample-damaged", reader.path, problem_of(error), place=f"key {key}")
            continue
        splits[str(sample.meta.get("split", ""))] += 1
        for code, what in sample_problems(sample, info):
            report.add(code, reader.path, what, place=f"key {key}")
        if aligned:
            for what in row_differences(sample, records[rows[index]]):
                report.add("manifest-differs", reader.path, what, place=f"key {key}, row {rows[index]}")
    return splits


def check_failed_rows(report: ShardReport, failures: Sequence[FailureRow], records: Mapping[int, ImageRecord]) -> None:
    """Compare the failed rows with those rows of the manifest."""
    for failure in failures if records else ():
        record = records[failure.row]
        expected_uri = mask_credentials(record.uri)
        if (failure.image_id, mask_credentials(failure.uri)) != (record.image_id, expected_uri):
            found, expected = f"{failure.image_id!r}, {failure.uri!r}", f"{record.image_id!r}, {expected_uri!r}"
            path = failures_path(report.directory, report.shard)
            report.add("manifest-differs", path, f"is {found}; the manifest has {expected}", place=f"row {failure.row}")


def read_rows(report: ShardReport, record: ShardRecord, manifest: Manifest | None) -> dict[int, ImageRecord]:
    """Return the shard's manifest rows by number, or nothing if there is no manifest or it has no such rows."""
    start, stop = record.rows
    if manifest is None or stop > manifest.rows:
        return {}
    try:
        return dict(zip(range(start, stop), manifest.read(start, stop), strict=True))
    except ManifestError as error:
        where = f"{manifest.path}, rows [{start}, {stop})"
        remedy = "rebuild the manifest with `vilbert manifest`"
        report.findings.append(Finding(code="manifest-damaged", where=where, what=str(error), remedy=remedy))
        return {}


def row_differences(sample: Sample, record: ImageRecord) -> Iterator[str]:
    """Yield the differences between a sample and its manifest row."""
    expected = {
        "image_id": record.image_id,
        "uri": mask_credentials(record.uri),
        "captions": list(record.captions),
        "split": record.split,
    }
    if record.sha256 is not None:
        expected["sha256"] = record.sha256
    for name, value in expected.items():
        found = sample.meta.get(name)
        if name == "uri" and isinstance(found, str):
            found = mask_credentials(found)  # data sets of earlier versions have them
        if found != value:
            yield f"{name} is {sample.meta.get(name)!r:.80}, the manifest has {value!r:.80}"
    if record.boxes_xyxy is not None and len(record.boxes_xyxy) != len(sample.regions):
        yield f"has {len(sample.regions)} regions, the manifest gives {len(record.boxes_xyxy)} boxes"
    if sample.meta.get("transposed") and not record.exif_orientation:
        yield "was rotated by its EXIF orientation, the manifest says that its pixels are used as stored"
