"""The input of an expression for a sample: its metadata, and the values of the data set's columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shards.columns.info import ColumnInfo, read_column, why_unusable
from vilbert.pipeline.shards.columns.layout import column_folder, column_names
from vilbert.pipeline.shards.columns.shard import ColumnReader, open_column_shard
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.storage.closing import Closing


class ValueColumns:
    """The columns of a data set: values that an expression compares, and whether a sample has an array."""

    def __init__(self, folder: Folder, info: DatasetInfo) -> None:
        """Read the column.json of all columns."""
        self.folder = folder
        self.usable: dict[str, ColumnInfo] = {}
        """Columns of JSON values (numbers, strings, objects), by name."""
        self.arrays: dict[str, ColumnInfo] = {}
        """Columns of arrays and regions, by name; `has` returns whether a sample has a value."""
        self._others: dict[str, str] = {}
        for name in column_names(folder):
            found = read_column(column_folder(folder, name))
            if why := why_unusable(found, info):
                self._others[name] = why
            elif found is not None and found.member == "json":
                self.usable[name] = found
            elif found is not None:
                self.arrays[name] = found
                self._others[name] = f"holds arrays, which an expression cannot compare, apart from has({name!r})"

    def require(self, name: str) -> None:
        """Raise RefusedError if a name is that of a column that cannot be read."""
        if why := self._others.get(name):
            raise RefusedError(f"{self.folder.name}: column {name} {why}")

    def names(self) -> list[str]:
        """Return the names of the columns that can be read."""
        return list(self.usable)


class ShardValues(Closing):
    """The columns of one shard, each opened when one of its values is first read."""

    def __init__(self, columns: ValueColumns, shard: int) -> None:
        self._columns = columns
        self._shard = shard
        self._open: dict[str, ColumnReader] = {}
        self._stack = ExitStack()

    def column(self, name: str) -> ColumnReader:
        """Return a column of the shard."""
        if name not in self._open:
            column, info = column_folder(self._columns.folder, name), self._columns.usable.get(name)
            info = info or self._columns.arrays[name]
            self._open[name] = self._stack.enter_context(open_column_shard(column, info, self._shard))
        return self._open[name]

    def sample(self, key: str, metadata: dict[str, Any]) -> Mapping[str, Any]:
        """Return the input of an expression for a sample."""
        return _SampleValues(self, key, metadata) if self._columns.usable or self._columns.arrays else metadata

    def has(self, name: str, key: str) -> bool:
        """Return whether a sample has a value in a column of this name."""
        known = name in self._columns.usable or name in self._columns.arrays
        return known and key in self.column(name)

    @property
    def names(self) -> list[str]:
        """Names of the columns."""
        return self._columns.names()

    def close(self) -> None:
        """Close the columns."""
        self._stack.close()
        self._open.clear()


class _SampleValues(Mapping[str, Any]):
    """The metadata of a sample and then the columns, which are read on demand."""

    def __init__(self, shard: ShardValues, key: str, metadata: dict[str, Any]) -> None:
        self._shard, self._key, self._metadata = shard, key, metadata

    def __getitem__(self, name: str) -> Any:
        known = name in self._shard.names
        if name in self._metadata:
            if known:
                raise RefusedError(
                    f"{name} is both a field of the samples and a column; add the column under another name"
                )
            return self._metadata[name]
        if not known:
            raise KeyError(name)
        return self._shard.column(name)[self._key]

    def __contains__(self, name: object) -> bool:
        return name in self._metadata or (isinstance(name, str) and self._shard.has(name, self._key))

    def __iter__(self) -> Iterator[str]:
        return iter({**self._metadata, **dict.fromkeys(self._shard.names)})

    def __len__(self) -> int:
        return len(list(iter(self)))
