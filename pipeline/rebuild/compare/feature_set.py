"""A and B where they are stored: a data set of ours, or a file of published features, read by row."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.source import Source
from vilbert.pipeline.shards.dataset import read_info
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.keys import sample_key
from vilbert.pipeline.shards.location.folder import Place, open_folder
from vilbert.pipeline.shards.location.layout import data_path
from vilbert.pipeline.shards.record import read_records_of
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.storage.store import ShardReader, open_shard


class FeatureSet(Protocol):
    """Stored features. Not shared between threads."""

    name: str
    """Its path or URL, for messages."""
    format: str
    """`vilbert`, or the name of a published format."""
    class_names: tuple[str, ...]
    """Names by class id; empty where the set names none."""
    facts: Mapping[str, Any]
    """What it records of how it was made: `fingerprint_fields` of a data set of ours; else empty."""
    rows: int
    """Number of rows."""

    def keys(self) -> Iterator[tuple[int, str]]:
        """Yield the row and the key of each sample; see `shards.keys.sample_key`."""

    def sample(self, row: int) -> Sample | FailureRow:
        """Return the sample of a row, or why it has none."""

    def close(self) -> None:
        """Release files."""


class StoredSet:
    """A data set of ours, which is complete. One shard is open at a time; its SHA-256 is left to `vilbert verify`."""

    format = "vilbert"

    def __init__(self, place: Place) -> None:
        self._folder = open_folder(place)
        self.name = self._folder.name
        info = read_info(self._folder)
        if not info.complete:
            raise ShardError(f"{self.name}: is not complete; run the command that writes it again")
        self.class_names = info.class_names
        self.facts: Mapping[str, Any] = info.fingerprint_fields
        records = read_records_of(self._folder)
        self._storage = info.storage
        self._shards = tuple(records)
        self._starts = (0, *accumulate(record.samples for record in records.values()))
        self.rows = self._starts[-1]
        self._open: tuple[int, ShardReader, ExitStack] | None = None

    def keys(self) -> Iterator[tuple[int, str]]:
        """Yield the number and the key of each sample; arrays are not read."""
        for place, start in enumerate(self._starts[:-1]):
            if self._starts[place + 1] > start:
                yield from enumerate(self._reader(place).keys(), start)

    def sample(self, row: int) -> Sample:
        """Return a sample by its number."""
        place = bisect_right(self._starts, row) - 1
        reader, at = self._reader(place), row - self._starts[place]
        if at >= len(reader):
            raise ShardError(
                f"{reader.path}: holds fewer samples than its record says; run `vilbert verify {self.name}`"
            )
        return reader[at]

    def _reader(self, place: int) -> ShardReader:
        if self._open is None or self._open[0] != place:
            self.close()
            name = data_path(Path(), self._shards[place], self._storage).as_posix()
            with ExitStack() as stack:
                directory = stack.enter_context(self._folder.local([name]))
                reader = stack.enter_context(open_shard(directory / name, verify=False))
                self._open = (place, reader, stack.pop_all())
        return self._open[1]

    def close(self) -> None:
        """Release the open shard."""
        if self._open is not None:
            self._open[2].close()
            self._open = None


class PublishedSet:
    """A file or folder of a published format."""

    facts: Mapping[str, Any] = {}

    def __init__(self, name: str, source: Source) -> None:
        self.name = name
        self.format = source.description.format
        self.class_names = source.description.class_names
        self.rows = source.rows
        self._source = source

    def keys(self) -> Iterator[tuple[int, str]]:
        """Yield the row and the key of each sample; all of the file is read."""
        for row, item in enumerate(self._source.read(0, self._source.rows)):
            if isinstance(item, Sample):
                yield row, sample_key(item.meta["image_id"])

    def sample(self, row: int) -> Sample | FailureRow:
        """Return the sample of a row, or why it has none."""
        return next(iter(self._source.read(row, row + 1)))

    def close(self) -> None:
        """Release files."""
        self._source.close()
