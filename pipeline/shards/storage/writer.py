"""Write one shard so that it appears complete or not at all.

The order of the steps guarantees this: failures, samples, folder, and the record last. If the process is killed between
two of them, the shard has no record and is made again, with the same bytes from the same rows.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.shards.failures import FailureRow, encode_failures
from vilbert.pipeline.shards.location.layout import (
    FAILURES_FOLDER,
    SHARDS_FOLDER,
    StorageFormat,
    data_path,
    failures_path,
    record_path,
)
from vilbert.pipeline.shards.record import ShardRecord, count_names
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.storage.atomic import fsync_dir, temporary_path, write_atomic
from vilbert.pipeline.shards.storage.raw import RawRun, RawSample
from vilbert.pipeline.shards.storage.store import SampleWriter, create_shard

Layout = tuple[tuple[str, tuple[int, ...], str], ...]
"""Arrays of a sample: name, shape without the number of regions, dtype. Image bytes are `image`, (), uint8."""


class ShardWriter:
    """Writes one shard of a data set. If the `with` block is left without `commit`, no file remains.

    Raises ShardError if writing fails, a sample does not match the others, or the rows do not add up.
    """

    def __init__(
        self,
        directory: Path,
        *,
        shard: int,
        format: StorageFormat,
        create: Callable[[Path], SampleWriter] | None = None,
    ) -> None:
        """Create the shard.

        create: creates the file of samples; None: a file with complete samples.
        """
        self._directory = directory
        self._shard = shard
        self._format: StorageFormat = format
        self._path = data_path(directory, shard, format)
        self._temporary = temporary_path(self._path)
        self._keys: dict[str, None] = {}  # a dict for its order
        self._splits: Counter[str] = Counter()
        self._layout: Layout | None = None
        with self._disk_errors():
            for folder in (SHARDS_FOLDER, FAILURES_FOLDER):
                (directory / folder).mkdir(parents=True, exist_ok=True)
            fsync_dir(directory)
            self._store = create(self._temporary) if create is not None else create_shard(self._temporary, format)
        self._committed = False

    def add(self, sample: Sample) -> None:
        """Append the sample of the next row of the manifest that has a sample."""
        arrays = sample.arrays().items()
        layout = tuple((name, array.shape[1:], array.dtype.name) for name, array in arrays)
        if sample.image is not None:
            layout = (*layout, ("image", (), "uint8"))
        self._note(sample.key, layout, sample.meta.get("split", ""))
        with self._disk_errors():
            self._store.add(sample)

    def add_raw(self, sample: RawSample, *, layout: Layout, split: object) -> None:
        """Append the stored bytes of a sample of another shard.

        Args:
            sample: The sample, from a shard with the same storage.
            layout: Its arrays, from its data set.
            split: The split in its metadata.
        """
        self._note(sample.key, layout, split)
        with self._disk_errors():
            self._store.add_raw(sample)

    def add_run(self, run: RawRun, *, layout: Layout) -> None:
        """Append the stored bytes of samples of another tar shard; this shard must be a tar, too.

        Args:
            run: The samples.
            layout: Their arrays, from their data set.
        """
        for key, split in zip(run.keys, run.splits, strict=True):
            self._note(key, layout, split)
        with self._disk_errors(), contextlib.closing(run.chunks):
            self._store.add_run(run.chunks)

    def _note(self, key: str, layout: Layout, split: object) -> None:
        """Check and count the next sample before it is written."""
        if key in self._keys:
            raise ShardError(f"{self._path}: key {key!r} appears twice: image ids must be unique in a manifest")
        if self._layout is not None and layout != self._layout:
            raise ShardError(
                f"{self._path}: sample {key} has the arrays {_describe(layout)}, earlier samples have "
                f"{_describe(self._layout)}: use one detector for a data set"
            )
        self._layout = layout
        self._keys[key] = None
        self._splits[str(split)] += 1

    def commit(
        self,
        *,
        rows: tuple[int, int],
        failures: Sequence[FailureRow],
        fingerprint: str,
        dropped: Mapping[str, int] | None = None,
    ) -> ShardRecord:
        """Make the shard part of the data set and return its record.

        Args:
            rows: The rows [start, stop) that the shard covers; each is an added sample, one of `failures`, or dropped.
            failures: The rows without a sample.
            fingerprint: Fingerprint of the data set.
            dropped: Number of rows that the settings drop, by reason.
        """
        dropped = dict(sorted((dropped or {}).items()))
        self._check_rows(rows, failures, sum(dropped.values()))
        with self._disk_errors():
            size, digest = self._store.finish()
            failure_lines = encode_failures(failures)
            keys = list(self._keys)
            record = ShardRecord(
                shard=self._shard,
                rows=rows,
                file=self._path.name,
                samples=len(keys),
                bytes=size,
                sha256=digest,
                first_key=keys[0] if keys else None,
                last_key=keys[-1] if keys else None,
                splits=dict(sorted(self._splits.items())),
                failures=count_names(failure.reason for failure in failures),
                failures_sha256=hashlib.sha256(failure_lines).hexdigest(),
                fingerprint=fingerprint,
                dropped=dropped,
            )
            record_file, content = record_path(self._directory, self._shard), record.to_json()
            # A worker that was given up and comes back must not take away what its successor wrote: the same.
            if record_file.exists() and record_file.read_bytes() != content:
                record_file.unlink()  # it must not vouch for the new file
                fsync_dir(record_file.parent)
            write_atomic(failures_path(self._directory, self._shard), failure_lines)
            os.replace(self._temporary, self._path)
            fsync_dir(self._path.parent)
            write_atomic(record_file, content)
        self._committed = True
        return record

    def _check_rows(self, rows: tuple[int, int], failures: Sequence[FailureRow], dropped: int) -> None:
        start, stop = rows
        failed = {failure.row for failure in failures}
        if len(failed) != len(failures) or not all(start <= row < stop for row in failed):
            raise ShardError(f"{self._path}: failures list a row twice, or rows outside of [{start}, {stop})")
        if len(self._keys) + len(failed) + dropped != stop - start:
            left_out = (
                f", {len(failed)} failures and {dropped} dropped rows" if dropped else f" and {len(failed)} failures"
            )
            raise ShardError(
                f"{self._path}: {len(self._keys)} samples{left_out} for {stop - start} rows: "
                "each row must be a sample or a failure"
            )

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ShardError(
                f"{self._path}: cannot be written ({error.strerror}); free space or check the folder's permissions, "
                "then run the same command again to resume"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._committed:
            self._store.abort()


def _describe(layout: tuple[tuple[str, tuple[int, ...], str], ...]) -> str:
    return ", ".join(f"{name} {dtype}{['N', *columns]}".replace("'", "") for name, columns, dtype in layout)
