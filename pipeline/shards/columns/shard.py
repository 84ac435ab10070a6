"""One shard of a column: a tar with one member per sample, KEY.NAME.npy or KEY.NAME.json, or with whole samples."""

from __future__ import annotations

import math
import mmap
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import CorruptShardError, ShardError
from vilbert.pipeline.shards.canonical import decode_json, encode_json
from vilbert.pipeline.shards.columns.info import REMEDY, ColumnInfo, Member
from vilbert.pipeline.shards.location.folder import Folder
from vilbert.pipeline.shards.location.layout import data_path
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.storage.closing import Closing
from vilbert.pipeline.shards.storage.hashed_tar import HashedTar
from vilbert.pipeline.shards.storage.npy import USUAL_HEADER_BYTES, decode_npy, encode_npy, usual_layout
from vilbert.pipeline.shards.storage.part import Part
from vilbert.pipeline.shards.storage.raw import RawSample
from vilbert.pipeline.shards.storage.tar_scan import TarIndex, scan
from vilbert.pipeline.shards.storage.tar_store import TarReader
from vilbert.pipeline.shards.storage.verified import compare_once

_NUMBER = rb"-?(?:0|[1-9][0-9]{0,15})(?:\.[0-9]{1,20})?"
_NUMBERS = re.compile(_NUMBER + rb"(?:," + _NUMBER + rb")*")


def encode_value(value: Any, member: Member) -> bytes:
    """Encode a value as the content of a member. Raise ValueError or TypeError if it cannot be stored."""
    if member == "json":
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError("it is NaN or infinite")
        return encode_json(value)
    array = np.asarray(value)
    if not np.isfinite(array).all():
        raise ValueError("it holds NaN or infinite numbers")
    return encode_npy(array)


class ColumnWriter(HashedTar):
    """Writes a new tar of values and hashes it on the fly."""

    def __init__(self, path: Path, *, name: str, member: Member) -> None:
        super().__init__(path)
        self._suffix = f"{name}.{member}"

    def add(self, key: str, content: bytes) -> None:
        """Append the value of the sample `key`."""
        self.add_member(f"{key}.{self._suffix}", content)


class FeatureWriter:
    """Writes a new tar with the features of samples, for `ShardWriter`."""

    def __init__(self, path: Path, *, name: str) -> None:
        self._writer = ColumnWriter(path, name=name, member="npy")

    def add(self, sample: Sample) -> None:
        """Append the features of a sample."""
        self._writer.add(sample.key, encode_npy(sample.regions.features))

    def add_raw(self, sample: RawSample) -> None:
        """Raise ShardError: the members of another shard cannot be copied to a column."""
        raise ShardError(f"{sample.key}: a column is written from samples")

    def add_run(self, chunks: Iterable[memoryview]) -> None:
        """Raise ShardError: the samples of another shard cannot be copied to a column."""
        raise ShardError("a column is written from samples")

    def finish(self) -> tuple[int, str]:
        """Finish the archive and sync it to disk; return its size in bytes and the hex digest of its SHA-256."""
        return self._writer.finish()

    def abort(self) -> None:
        """Close the file and delete it."""
        self._writer.abort()


class ColumnShard(Closing):
    """The values of a column's shard by key. Arrays are read-only views of the mapped file."""

    def __init__(self, path: Path, *, name: str, member: Member) -> None:
        """Open a tar.

        Raises:
            CorruptShardError: Outside the values, the file is not byte for byte what `ColumnWriter` writes.
        """
        self.path = path
        self._member = member
        try:
            with path.open("rb") as file:
                size = file.seek(0, 2)
                self._map: mmap.mmap | None = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) if size else None
        except OSError as error:
            raise CorruptShardError(f"cannot be read ({error.strerror})", path=path, remedy=REMEDY) from error
        index = None if self._map is None else scan(self._map, layouts=((f"{name}.{member}",),))
        if index is None:
            problem = f"is not a tar of members KEY.{name}.{member} as this program writes it"
            raise CorruptShardError(problem, path=path, remedy=REMEDY)
        self._places = {key: place for place, key in enumerate(index.keys)}
        self._starts, self._sizes = index.starts[:, 0].tolist(), index.sizes[:, 0].tolist()
        self.index = index
        """Positions of the members."""
        self.arrays = self._equal_arrays() if member == "npy" else None
        """The arrays of all samples in the order of `keys`, [samples, ...]; None if shapes or dtypes differ."""
        self._numbers = self._all_numbers() if member == "json" else None

    @property
    def keys(self) -> Sequence[str]:
        """The keys of the samples that have a value, in the order of the data set."""
        return self.index.keys

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> Any:
        """Return the value of a sample: an array or a JSON value. Raise KeyError if it has no value."""
        place = self._places[key]
        if self.arrays is not None:
            return self.arrays[place]
        if self._numbers is not None:
            return self._numbers[place]
        start, size = self._starts[place], self._sizes[place]
        assert self._map is not None
        try:
            if self._member == "npy":
                return self._array(self._map, start, size)
            return decode_json(self._map[start : start + size])
        except ValueError as error:
            raise CorruptShardError(f"its value {error}", path=self.path, key=key, remedy=REMEDY) from error

    def features(self, key: str) -> Any:
        """Return the value of a sample, like `RegionShard.features`. Raise KeyError if it has no value."""
        return self[key]

    def _array(self, data: mmap.mmap, start: int, size: int) -> NDArray[Any]:
        """Return the array of a member. Raise ValueError if it is not an array."""
        layout = usual_layout(data[start : start + USUAL_HEADER_BYTES])
        if layout is None or layout.size != size:
            return decode_npy(memoryview(data)[start : start + size])
        return np.ndarray(layout.shape, layout.dtype, buffer=data, offset=start + USUAL_HEADER_BYTES)

    def _equal_arrays(self) -> NDArray[Any] | None:
        """Return the value of `arrays`, a view of the mapped file, or None."""
        data, starts = self._map, self._starts
        if data is None or not starts or len(set(self._sizes)) > 1:
            return None
        layout = usual_layout(data[starts[0] : starts[0] + USUAL_HEADER_BYTES])
        if layout is None or layout.size != self._sizes[0]:
            return None
        # Members of equal size have equal distances.
        distance = starts[1] - starts[0] if len(starts) > 1 else 0
        headers = np.ndarray((len(starts), USUAL_HEADER_BYTES), np.uint8, data, starts[0], (distance, 1))
        if (headers != headers[0]).any():
            return None
        first = np.ndarray(layout.shape, layout.dtype, data, starts[0] + USUAL_HEADER_BYTES)
        strides, offset = (distance, *first.strides), starts[0] + USUAL_HEADER_BYTES
        return np.ndarray((len(starts), *layout.shape), layout.dtype, data, offset, strides)

    def _all_numbers(self) -> list[int | float] | None:
        """Return the values of all samples if all are numbers, several times faster than one by one."""
        data = self._map
        if data is None or not self._starts:
            return None
        texts = [data[start : start + size] for start, size in zip(self._starts, self._sizes, strict=True)]
        joined = b",".join(texts)
        if not _NUMBERS.fullmatch(joined) or joined.count(b",") != len(texts) - 1:
            return None
        numbers: list[int | float] = decode_json(b"[" + joined + b"]")
        return numbers

    def close(self) -> None:
        """Let go of the file; arrays already handed out stay valid."""
        self._map = self.arrays = self._numbers = None


class RegionShard(Closing):
    """The samples of a shard of a column of regions, by key. Arrays are read-only views of the mapped file."""

    def __init__(self, path: Path) -> None:
        """Open a tar of samples.

        Raises:
            CorruptShardError: Outside the members, the file is not byte for byte a shard of a data set.
        """
        self.path = path
        try:
            self._reader = TarReader(path)
        except OSError as error:
            raise CorruptShardError(f"cannot be read ({error.strerror})", path=path, remedy=REMEDY) from error
        except CorruptShardError as error:
            raise _of_column(error) from None
        self._places = {key: number for number, key in enumerate(self._reader.keys())}

    @property
    def index(self) -> TarIndex:
        """Positions of the members."""
        return self._reader.index

    @property
    def keys(self) -> Sequence[str]:
        """The keys of the samples that have regions, in the order of the data set."""
        return self._reader.keys()

    def __contains__(self, key: str) -> bool:
        return key in self._places

    def __getitem__(self, key: str) -> Sample:
        """Return the sample with a key; KeyError if it is missing."""
        try:
            return self._reader[self._places[key]]
        except CorruptShardError as error:
            raise _of_column(error) from None

    def features(self, key: str) -> NDArray[Any]:
        """Return the features of a sample's regions; KeyError if the sample is missing."""
        return self.part(key, ("features",)).arrays["features"]

    def part(self, key: str, fields: Sequence[str]) -> Part:
        """Return the named arrays and the metadata of a sample; KeyError if the sample is missing."""
        try:
            return self._reader.read(self._places[key], fields)
        except CorruptShardError as error:
            raise _of_column(error) from None

    def close(self) -> None:
        """Let go of the file; arrays already handed out stay valid."""
        self._reader.close()


ColumnReader = ColumnShard | RegionShard


def open_column_file(path: Path, *, name: str, member: Member) -> ColumnReader:
    """Open the file of a column's shard. Raise CorruptShardError if it is damaged or missing."""
    return RegionShard(path) if member == "regions" else ColumnShard(path, name=name, member=member)


@contextmanager
def open_column_shard(
    column: Folder, info: ColumnInfo, shard: int, *, sha256: str | None = None
) -> Iterator[ColumnReader]:
    """Open a shard of a column in a local or remote folder.

    Args:
        column: The column's folder.
        info: Its column.json.
        shard: Index of the shard.
        sha256: The SHA-256 in the shard's record, which is verified once per process; None to skip verification.

    Raises:
        CorruptShardError: The shard is damaged or missing, or has another SHA-256.
    """
    file = data_path(Path(), shard, "tar")
    with column.local([file.as_posix()]) as directory:
        try:
            if sha256 is not None:
                compare_once(directory / file, sha256)
        except CorruptShardError as error:
            raise _of_column(error) from None
        with open_column_file(directory / file, name=info.name, member=info.member) as opened:
            yield opened


def _of_column(error: CorruptShardError) -> CorruptShardError:
    """Return an error of a shard with the remedy for a column."""
    return CorruptShardError(error.problem, path=error.path, offset=error.offset, key=error.key, remedy=REMEDY)
