"""A data set as a sequence of samples: `open_dataset("features")[0].regions.features`."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import overload

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.shards.dataset import DatasetInfo, read_info
from vilbert.pipeline.shards.location.folder import open_folder, parse_place
from vilbert.pipeline.shards.location.layout import data_path, record_path
from vilbert.pipeline.shards.record import read_records_of
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.storage.closing import Closing
from vilbert.pipeline.shards.storage.store import ShardReader, open_shard


class Dataset(Sequence[Sample], Closing):
    """The samples of a complete data set in manifest order. One shard is open at a time.

    This class is not thread-safe. For training, use the loader in `vilbert.pipeline.train`, which shuffles and keeps
    many shards open.
    """

    def __init__(self, place: str | os.PathLike[str]) -> None:
        self._folder = open_folder(parse_place(os.fspath(place)))
        self.info: DatasetInfo = read_info(self._folder)
        """Description of the data set: class names, fields, splits, totals."""
        if not self.info.complete:
            raise ShardError(
                f"{self._folder.name}: is not complete; run the same `vilbert extract` or `vilbert convert` again"
            )
        records = read_records_of(self._folder)
        self._shards = tuple(records)
        self._starts = (0, *accumulate(record.samples for record in records.values()))
        self._open: tuple[int, ShardReader, ExitStack] | None = None

    def __len__(self) -> int:
        """Return the number of samples."""
        return self._starts[-1]

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> list[Sample]: ...
    def __getitem__(self, index: int | slice) -> Sample | list[Sample]:
        """Return a sample by index, or a list of samples for a slice.

        Raises:
            IndexError: The index is out of range.
            CorruptShardError: The sample is damaged.
        """
        if isinstance(index, slice):
            return [self[at] for at in range(*index.indices(len(self)))]
        at = index + len(self) if index < 0 else index
        if not 0 <= at < len(self):
            raise IndexError(f"sample {index} of {len(self)}")
        place = bisect_right(self._starts, at) - 1  # skips shards without samples
        return self._reader(place)[at - self._starts[place]]

    def __iter__(self) -> Iterator[Sample]:
        """Yield all samples."""
        return (self[at] for at in range(len(self)))

    def close(self) -> None:
        """Close the open shard. Samples that were already read stay valid."""
        if self._open is not None:
            self._open[2].close()
            self._open = None

    def _reader(self, place: int) -> ShardReader:
        if self._open is None or self._open[0] != place:
            self.close()
            with ExitStack() as stack:
                shard = self._shards[place]
                name = data_path(Path(), shard, self.info.storage)
                # The record is included because the reader verifies its SHA-256.
                files = [path.as_posix() for path in (name, record_path(Path(), shard))]
                directory = stack.enter_context(self._folder.local(files))
                reader = stack.enter_context(open_shard(directory / name))
                self._open = (place, reader, stack.pop_all())
        return self._open[1]


def open_dataset(place: str | os.PathLike[str]) -> Dataset:
    """Open a data set that `vilbert extract` or `vilbert convert` wrote.

    Args:
        place: Path or URL of its folder.

    Returns:
        A sequence of samples in manifest order, with `len`, indexing, slicing and iteration. Close it, or use `with`.

    Raises:
        ShardError: There is no data set, or it is incomplete.
    """
    return Dataset(place)
