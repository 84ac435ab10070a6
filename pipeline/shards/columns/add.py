"""Write an imported column: one value for each sample, in shards like those of the data set."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vilbert.pipeline.errors import RefusedError, ShardError
from vilbert.pipeline.shards.columns.energon import write_energon_files
from vilbert.pipeline.shards.columns.info import ColumnInfo, encode_column, read_column
from vilbert.pipeline.shards.columns.layout import COLUMN_FILE, check_column_name, column_folder
from vilbert.pipeline.shards.columns.shard import ColumnWriter, encode_value
from vilbert.pipeline.shards.columns.values_file import ValuesFile
from vilbert.pipeline.shards.dataset import DatasetInfo, fingerprint_digest, read_info
from vilbert.pipeline.shards.location.folder import Folder, LocalFolder
from vilbert.pipeline.shards.location.layout import DATASET_FILE, FAILURES_FOLDER, SHARDS_FOLDER, data_path, record_path
from vilbert.pipeline.shards.record import ShardRecord, read_each_record
from vilbert.pipeline.shards.storage.atomic import fsync_dir, temporary_path, write_atomic
from vilbert.pipeline.shards.storage.store import open_shard

NO_VALUE, NO_SAMPLE = "no_value", "no_sample"
"""Reasons why a manifest row has no value in the column's shard."""


@dataclass
class _Seen:
    """Common properties of the values written so far."""

    dtypes: set[str] = field(default_factory=set)
    dimensions: set[int] = field(default_factory=set)
    last_sides: set[int] = field(default_factory=set)
    of_boxes: bool = True
    used: int = 0

    def note(self, value: Any, boxes: int) -> None:
        self.used += 1
        if isinstance(value, np.ndarray):
            self.dtypes.add(value.dtype.name)
            self.dimensions.add(value.ndim)
            if value.size:
                self.last_sides.add(value.shape[-1])
            self.of_boxes = self.of_boxes and value.shape[0] == boxes

    def shape(self) -> tuple[int | str | None, ...]:
        """Return the shape of all arrays, in the form of column.json."""
        (dimensions,) = self.dimensions
        last = next(iter(self.last_sides)) if len(self.last_sides) == 1 else None
        if dimensions == 2:
            return ("N" if self.of_boxes else None, last)
        return ("N" if self.of_boxes and last is None else last,)


def add_column(folder: Folder, name: str, values: ValuesFile, *, missing: Literal["error", "skip"]) -> ColumnInfo:
    """Write a new column, or return the existing one if it has the same values.

    The caller holds the data set's writer lock. If the call is interrupted, the incomplete column has no column.json,
    and the next call starts again.

    Args:
        folder: A complete data set.
        name: Name of the column.
        values: Values by image id.
        missing: Whether samples without a value are an error or skipped.

    Raises:
        RefusedError: A column with this name has other values, or samples have no value.
    """
    check_column_name(name)
    info = read_info(folder)
    if not info.complete or info.records_sha256 is None:
        raise RefusedError(f"{folder.name}: is not complete; run the command that writes it again until it is")
    column = column_folder(folder, name)
    facts = {**values.facts, "base": info.records_sha256, "missing": missing}
    found = read_column(column)
    if found is not None and found.fingerprint == fingerprint_digest(facts):
        return found
    if found is not None or column.read(DATASET_FILE) is not None:
        raise RefusedError(
            f"{folder.name}: has a column {name} with other values; drop it first: "
            f"vilbert column drop {folder.name} --column {name}"
        )
    empty(column)
    try:
        written = _write(folder, info, column, name, values, facts, missing)
        write_energon_files(column, written)
    except BaseException:
        empty(column)
        raise
    column.write(COLUMN_FILE, encode_column(written))
    return written


def empty(column: Folder) -> None:
    """Delete the files of a column, column.json first."""
    for document in (COLUMN_FILE, DATASET_FILE):
        column.delete(document)
    for under in (SHARDS_FOLDER, FAILURES_FOLDER, ".nv-meta", ".journals", ""):
        for name, size in sorted(column.entries(under)):
            if size is not None:
                column.delete(f"{under}/{name}" if under else name)
        if isinstance(column, LocalFolder) and (column.path / under).is_dir():
            try:
                (column.path / under).rmdir()
            except OSError as error:
                raise ShardError(
                    f"{column.path / under}: contains files that do not belong to a column; move them away"
                ) from error


def _write(
    folder: Folder, info: DatasetInfo, column: Folder, name: str, values: ValuesFile, facts: dict[str, Any],
    missing: Literal["error", "skip"],
) -> ColumnInfo:  # fmt: skip
    fingerprint, seen, digest = fingerprint_digest(facts), _Seen(), hashlib.sha256()
    totals: Counter[str] = Counter()
    if isinstance(column, LocalFolder):
        column.path.mkdir(parents=True, exist_ok=True)
    for base in read_each_record(folder, range(info.shards)):
        with _disk_errors(column), column.building() as built:
            (built / SHARDS_FOLDER).mkdir(parents=True, exist_ok=True)
            record = _write_shard(folder, info, base, built, name, values, seen, fingerprint, missing)
            names = [data_path(Path(), base.shard, "tar").as_posix(), record_path(Path(), base.shard).as_posix()]
            column.publish(built, names)
        digest.update(record.to_json())
        totals.update(samples=record.samples, bytes=record.bytes, missing=record.dropped.get(NO_VALUE, 0))
    if not totals["samples"]:
        raise RefusedError(f"{folder.name}: none of its image ids has a value in the file; check --id-column or --ids")
    arrays = values.member == "npy"
    return ColumnInfo(
        name=name,
        base=str(info.records_sha256),
        member=values.member,
        dtype=next(iter(seen.dtypes)) if arrays else None,
        shape=seen.shape() if arrays else None,
        shards=info.shards,
        samples=totals["samples"],
        missing=totals["missing"],
        bytes=totals["bytes"],
        fingerprint=fingerprint,
        fingerprint_fields=facts,
        records_sha256=digest.hexdigest(),
    )


def _write_shard(
    folder: Folder, info: DatasetInfo, base: ShardRecord, built: Path, name: str, values: ValuesFile, seen: _Seen,
    fingerprint: str, missing: Literal["error", "skip"],
) -> ShardRecord:  # fmt: skip
    """Write the column's shard for `base`, and its record, to the folder `built`."""
    path = data_path(built, base.shard, "tar")
    temporary = temporary_path(path)
    writer = ColumnWriter(temporary, name=name, member=values.member)
    splits: Counter[str] = Counter()
    keys = []
    try:
        for key, metadata in _samples(folder, info, base):
            image_id = metadata["image_id"]
            try:
                value = values.get(image_id)
                content = b"" if value is None else encode_value(value, values.member)
            except (ValueError, TypeError, OSError) as error:
                raise RefusedError(f"the value of image {image_id!r:.80} cannot be stored: {error}") from None
            if value is None:
                if missing == "error":
                    raise RefusedError(
                        f"{folder.name}: the file has no value for image {image_id!r:.80} (shard {base.shard}, key "
                        f"{key}); give --missing skip to leave such samples without a value"
                    )
                continue
            writer.add(key, content)
            seen.note(value, metadata["num_boxes"])
            keys.append(key)
            splits[str(metadata.get("split", ""))] += 1
        size, sha256 = writer.finish()
        os.replace(temporary, path)
        fsync_dir(path.parent)
    except BaseException:
        writer.abort()
        raise
    start, stop = base.rows
    dropped = {NO_SAMPLE: stop - start - base.samples, NO_VALUE: base.samples - len(keys)}
    record = ShardRecord(
        shard=base.shard,
        rows=base.rows,
        file=path.name,
        samples=len(keys),
        bytes=size,
        sha256=sha256,
        first_key=keys[0] if keys else None,
        last_key=keys[-1] if keys else None,
        splits=dict(sorted(splits.items())),
        failures_sha256=hashlib.sha256(b"").hexdigest(),
        fingerprint=fingerprint,
        dropped={reason: count for reason, count in sorted(dropped.items()) if count},
    )
    write_atomic(record_path(built, base.shard), record.to_json())
    return record


def _samples(folder: Folder, info: DatasetInfo, base: ShardRecord) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield key and metadata of the samples of a shard of the data set."""
    if not base.samples:
        return
    file = data_path(Path(), base.shard, info.storage).as_posix()
    with folder.local([file]) as directory, open_shard(directory / file, verify=False) as reader:
        for number, key in enumerate(reader.keys()):
            yield key, reader.metadata(number)


@contextmanager
def _disk_errors(column: Folder) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ShardError(
            f"{column.name}: cannot be written ({error.strerror or error}); free space or check its permissions"
        ) from error
