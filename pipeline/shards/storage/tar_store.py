"""Shards as plain USTAR files, written sequentially and read through a memory map.

A member's header is a function of its name and size only. The reader compares each header with the one that the writer
would have written, so every change of a header is detected.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import CorruptShardError, ShardError
from vilbert.pipeline.shards.keys import is_key
from vilbert.pipeline.shards.sample import MEMBER_LAYOUTS, Sample, decode_members, encode_members
from vilbert.pipeline.shards.storage.closing import Closing
from vilbert.pipeline.shards.storage.hashed_tar import HashedTar
from vilbert.pipeline.shards.storage.npy import USUAL_HEADER_BYTES, concatenate_npy, decode_npy
from vilbert.pipeline.shards.storage.part import (
    Part,
    build_part,
    finish_part,
    fits_field,
    parse_metadata,
    part_layout,
    stored_names,
)
from vilbert.pipeline.shards.storage.raw import RawSample
from vilbert.pipeline.shards.storage.tar_scan import TarIndex, scan
from vilbert.pipeline.shards.storage.ustar import BLOCK, RECORD, padding, ustar_header


class TarWriter(HashedTar):
    """One new tar file of samples, hashed while it is written."""

    def add(self, sample: Sample) -> None:
        """Append the sample's members."""
        for name, content in encode_members(sample):
            self.add_member(f"{sample.key}.{name}", content)

    def add_raw(self, sample: RawSample) -> None:
        """Append a sample of another tar shard, with the given metadata."""
        self._file.write(sample.content)
        self.add_member(f"{sample.key}.json", sample.metadata)

    def add_run(self, chunks: Iterable[memoryview]) -> None:
        """Append samples of another tar shard."""
        for chunk in chunks:
            self._file.write(chunk)


class Member(NamedTuple):
    """Position of a member's content."""

    name: str
    """The part of the name after `KEY.`."""
    start: int
    """Offset in the file, in bytes."""
    size: int
    """Bytes."""


class TarReader(Closing):
    """The samples of a tar shard, by position. Arrays are read-only views of the mapped file, not copies.

    Opening reads all headers and raises CorruptShardError at the first byte that the writer would not have written. The
    content of a member is checked when its sample is read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            if file.seek(0, 2) == 0:
                raise CorruptShardError("is empty", path=path, offset=0)
            self._map: mmap.mmap | None = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        found = scan(self._map) or _place_members(read_index(self._map, path))
        self._keys, self._names, self._starts, self._sizes = found
        self._fields = {name.removesuffix(".npy"): column for column, name in enumerate(self._names) if ".npy" in name}

    def __len__(self) -> int:
        return len(self._keys)

    def keys(self) -> tuple[str, ...]:
        """Return the keys in the order of the manifest."""
        return self._keys

    @property
    def index(self) -> TarIndex:
        """Positions of the members of all samples in the file."""
        return TarIndex(self._keys, self._names, self._starts, self._sizes)

    def __getitem__(self, index: int) -> Sample:
        contents = [(name, self._content(index, column)) for column, name in enumerate(self._names)]
        return decode_members(self._keys[index], contents, path=self.path)

    def read(self, index: int, fields: Sequence[str], *, stored: bool = False) -> Part:
        """Return the named arrays and the metadata of a sample."""
        key, names, data = self._keys[index], tuple(stored_names(fields, self._fields)), self._data
        starts, sizes = self._starts[index].tolist(), self._sizes[index].tolist()
        for name in names:
            if name not in self._fields:
                raise CorruptShardError(f"has no array {name}", path=self.path, key=key)
        columns = [self._fields[name] for name in names]
        headers = b"".join([data[starts[column] : starts[column] + USUAL_HEADER_BYTES] for column in columns])
        layout = part_layout(names, headers)
        if layout is None or layout.sizes != tuple([sizes[column] for column in columns]):
            return self._read_unusual(index, names, stored=stored)
        metadata = parse_metadata(key, data[starts[-1] : starts[-1] + sizes[-1]], path=self.path)
        if layout.boxes not in (metadata["num_boxes"], None):
            return self._read_unusual(index, names, stored=stored)
        arrays: dict[str, NDArray[Any]] = {}
        for column, (name, (dtype, shape, _)) in zip(columns, layout.arrays, strict=True):
            arrays[name] = np.ndarray(shape, dtype, data, starts[column] + USUAL_HEADER_BYTES)
        return finish_part(key, arrays, metadata, path=self.path, stored=stored)

    def _read_unusual(self, index: int, names: Sequence[str], *, stored: bool) -> Part:
        """Read arrays one by one, and raise an error with the problem."""
        key = self._keys[index]
        arrays = {}
        for name in names:
            try:
                arrays[name] = decode_npy(self._content(index, self._fields[name]))
            except ValueError as error:
                raise CorruptShardError(f"{name}.npy {error}", path=self.path, key=key) from error
        return build_part(key, arrays, bytes(self._content(index, -1)), path=self.path, stored=stored)

    def joined_arrays(self, fields: Sequence[str]) -> tuple[dict[str, NDArray[Any]], list[int]] | None:
        """Return the named arrays of all samples, concatenated along their first axis, and the regions of each sample.

        Several times faster than `read` for each sample. None if `read` has to check a sample, or the arrays cannot be
        concatenated.
        """
        arrays: dict[str, NDArray[Any]] = {}
        rows: list[int] = []
        for name in stored_names(fields, self._fields):
            if name not in fields or name not in self._fields:
                return None
            try:
                arrays[name], lengths = concatenate_npy(
                    self._content(at, self._fields[name]) for at in range(len(self))
                )
            except ValueError:
                return None
            if not fits_field(name, arrays[name]) or (rows and lengths != rows):
                return None
            rows = lengths
        return arrays, rows

    def metadata(self, index: int) -> dict[str, Any]:
        """Return the metadata of a sample without reading its arrays."""
        return parse_metadata(self._keys[index], bytes(self._content(index, -1)), path=self.path)

    def raw(self, index: int) -> RawSample:
        """Return a sample as it is stored."""
        metadata = bytes(self._content(index, -1))
        start, stop = int(self._starts[index, 0]) - BLOCK, int(self._starts[index, -1]) - BLOCK
        return RawSample(self._keys[index], memoryview(self._data)[start:stop], metadata)

    def span(self, first: int, stop: int) -> tuple[int, int]:
        """Return the bytes [start, stop) of the file that contain the samples [first, stop), at least one."""
        end = int(self._starts[stop - 1, -1] + self._sizes[stop - 1, -1])
        return self.offset(first), end + padding(end)

    def chunk(self, first: int, stop: int) -> memoryview:
        """Return the bytes of `span` as a view of the map."""
        start, end = self.span(first, stop)
        return memoryview(self._data)[start:end]

    def offset(self, index: int) -> int:
        """Return the offset of the header of a sample's first member."""
        return int(self._starts[index, 0]) - BLOCK

    def _content(self, index: int, column: int) -> memoryview:
        """Return a member's content as a view of the map."""
        start = int(self._starts[index, column])
        return memoryview(self._data)[start : start + int(self._sizes[index, column])]

    @property
    def _data(self) -> mmap.mmap:
        if self._map is None:
            raise ShardError(f"{self.path}: the reader is closed; open the shard again")
        return self._map

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def close(self) -> None:
        """Close the file; arrays that were returned stay valid."""
        # Not mmap.close(): it would unmap the file under the arrays, which keep the map alive but are not its exports.
        self._map = None

    def __reduce__(self) -> tuple[type[TarReader], tuple[Path]]:
        """Pickle as the arguments of `__init__`: the receiving process opens the file itself."""
        return TarReader, (self.path,)


def _place_members(index: dict[str, tuple[Member, ...]]) -> TarIndex:
    members = list(index.values())
    names = tuple(member.name for member in members[0]) if members else MEMBER_LAYOUTS[0]
    places = np.array([[(member.start, member.size) for member in sample] for sample in members], dtype=np.int64)
    places = places.reshape(len(members), len(names), 2)
    return TarIndex(tuple(index), names, places[..., 0], places[..., 1])


def read_index(data: mmap.mmap | bytes | bytearray, path: Path) -> dict[str, tuple[Member, ...]]:
    """Return the members of each sample by key, in file order, or raise CorruptShardError."""
    index: dict[str, tuple[Member, ...]] = {}
    key: str | None = None
    members: list[Member] = []
    offset = 0
    while (header := data[offset : offset + BLOCK]) and header[0]:
        name, member = _read_member(data, header, offset, path)
        if key is None and name in index:
            raise CorruptShardError(
                "its members are not adjacent, or it appears twice", path=path, offset=offset, key=name
            )
        if key is not None and name != key:
            raise CorruptShardError(f"ends without its json member, {name} follows", path=path, offset=offset, key=key)
        key = name
        members.append(member)
        if member.name == "json":
            index[key] = _complete(members, index, path, offset, key)
            key, members = None, []
        offset = member.start + member.size + padding(member.size)
    if key is not None:
        raise CorruptShardError("the archive ends inside the sample", path=path, offset=offset, key=key)
    expected = offset + 2 * BLOCK + -(offset + 2 * BLOCK) % RECORD
    if len(data) != expected:
        problem = f"has {len(data)} bytes, expected {expected}: cut short, or something was appended"
        raise CorruptShardError(problem, path=path, offset=offset)
    if data[offset:].strip(b"\0"):
        raise CorruptShardError("contains data behind its last member", path=path, offset=offset)
    return index


def _read_member(
    data: mmap.mmap | bytes | bytearray, header: bytes | bytearray, offset: int, path: Path
) -> tuple[str, Member]:
    """Return the key and the member of the header at `offset`."""
    match = re.fullmatch(rb"([A-Za-z0-9_-]+)\.([a-z_.]+)\0*", header[:100])
    size_field = re.fullmatch(rb"([0-7]{11})\0", header[124:136])
    if not match or not size_field or not is_key(match[1].decode()):
        raise CorruptShardError("expected the header of a member KEY.NAME", path=path, offset=offset)
    key, name, size = match[1].decode(), match[2].decode(), int(size_field[1], 8)
    if header != ustar_header(f"{key}.{name}", size):
        problem = f"header of {name} is not the plain USTAR header of a regular file of mode 0644, owner 0 and time 0"
        raise CorruptShardError(problem, path=path, offset=offset, key=key)
    start = offset + BLOCK
    end = start + size
    if end + padding(size) > len(data):
        raise CorruptShardError(
            f"the file is truncated inside {name}, which has {size} bytes", path=path, offset=offset, key=key
        )
    if data[end : end + padding(size)].strip(b"\0"):
        raise CorruptShardError(f"the padding behind {name} is not zeros", path=path, offset=end, key=key)
    return key, Member(name, start, size)


def _complete(
    members: list[Member], index: dict[str, tuple[Member, ...]], path: Path, offset: int, key: str
) -> tuple[Member, ...]:
    """Return a sample's members if they are those of the format and of the previous samples."""
    names = tuple(member.name for member in members)
    first = next(iter(index.values()), None)
    allowed = MEMBER_LAYOUTS if first is None else (tuple(member.name for member in first),)
    if names not in allowed:
        problem = f"has members {', '.join(names)}; expected {', '.join(allowed[-1])}"
        raise CorruptShardError(problem, path=path, offset=offset, key=key)
    return tuple(members)
