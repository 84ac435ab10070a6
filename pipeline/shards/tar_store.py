"""Shards as plain USTAR files, written front to back and read through a memory map.

A member's header is a function of its name and size alone, so the reader compares each header with the one that the
writer would have made: no byte of it can change unnoticed.
"""

from __future__ import annotations

import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from pipeline.shards.atomic import HashingFile
from pipeline.shards.errors import CorruptShardError, ShardError
from pipeline.shards.keys import is_key
from pipeline.shards.sample import Sample, decode_members, encode_members, member_names

BLOCK = 512
RECORD = 20 * BLOCK
"""A tar file's length is a multiple of this (POSIX `pax`, ustar interchange format)."""
_MAX_MEMBER_BYTES = 8**11 - 1
_MODE_AND_OWNER = b"0000644\0" + b"0000000\0" * 2
_TIME = b"00000000000\0"
_REST = (b"0" + bytes(100) + b"ustar\0" + b"00").ljust(BLOCK - 156, b"\0")  # regular file, no link, magic, no names
_REST_SUM = sum(_REST) + sum(b" " * 8)  # the checksum counts its own field as spaces
_LAYOUTS = (member_names(attributes=False), member_names(attributes=True))


def ustar_header(name: str, size: int) -> bytes:
    """Return the 512 bytes before a regular file's content: mode 0644, owner 0, time 0, as `tarfile` writes them.

    Raises ValueError for a name over 100 bytes or a size of 8 GiB and more, for which USTAR has no room.
    """
    encoded = name.encode("ascii")
    if len(encoded) > 100 or size > _MAX_MEMBER_BYTES:
        raise ValueError(f"USTAR has no room for {name} of {size} bytes")
    before = encoded.ljust(100, b"\0") + _MODE_AND_OWNER + b"%011o\0" % size + _TIME
    return before + b"%06o\0 " % (sum(before) + _REST_SUM) + _REST


def _padding(size: int) -> int:
    return -size % BLOCK


class TarWriter:
    """One new tar file, hashed while it is written."""

    def __init__(self, path: Path) -> None:
        self._file = HashingFile(path)

    def add(self, sample: Sample) -> None:
        """Append the sample's members."""
        for name, content in encode_members(sample):
            header = ustar_header(f"{sample.key}.{name}", len(content))
            self._file.write(header + content + bytes(_padding(len(content))))

    def finish(self) -> tuple[int, str]:
        """End the archive, put it on the disk and close it; return its bytes and the hex digest of their SHA-256."""
        end = self._file.bytes + 2 * BLOCK
        self._file.write(bytes(2 * BLOCK + -end % RECORD))
        self._file.sync()
        self._file.close()
        return self._file.bytes, self._file.sha256

    def abort(self) -> None:
        """Close the file and delete it."""
        self._file.discard()


class Member(NamedTuple):
    """Where a member's content lies."""

    name: str
    """What follows `KEY.`"""
    start: int
    """Byte of the file."""
    size: int
    """Bytes."""


class TarReader:
    """The samples of a tar shard, by their place in it. Arrays are read-only views of the mapped file, not copies.

    Opening reads all headers and raises CorruptShardError at the first byte that the writer would not have written;
    what is inside a member is checked when its sample is read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            if file.seek(0, 2) == 0:
                raise CorruptShardError("is empty", path=path, offset=0)
            self._map: mmap.mmap | None = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        index = read_index(self._map, path)
        self._keys = tuple(index)
        self._members = tuple(index.values())

    def __len__(self) -> int:
        return len(self._keys)

    def keys(self) -> tuple[str, ...]:
        """Return the keys in the order of the manifest."""
        return self._keys

    def __getitem__(self, index: int) -> Sample:
        if self._map is None:
            raise ShardError(f"{self.path}: the reader is closed; open the shard again")
        key, members = self._keys[index], self._members[index]
        view = memoryview(self._map)
        contents = [(member.name, view[member.start : member.start + member.size]) for member in members]
        return decode_members(key, contents, path=self.path)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    def close(self) -> None:
        """Let go of the file; arrays already handed out stay valid."""
        # Not mmap.close(): it would unmap the file under the arrays, which keep the map alive but are not its exports.
        self._map = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[TarReader], tuple[Path]]:
        """Let a process started by `spawn` open the file for itself."""
        return TarReader, (self.path,)


def read_index(data: mmap.mmap | bytes | bytearray, path: Path) -> dict[str, tuple[Member, ...]]:
    """Return the members of each sample by key, in the file's order, or raise CorruptShardError."""
    index: dict[str, tuple[Member, ...]] = {}
    key: str | None = None
    members: list[Member] = []
    offset = 0
    while (header := data[offset : offset + BLOCK]) and header[0]:
        name, member = _read_member(data, header, offset, path)
        if key is None and name in index:
            raise CorruptShardError(
                "its members are not adjacent, or it is there twice", path=path, offset=offset, key=name
            )
        if key is not None and name != key:
            raise CorruptShardError(f"ends without its json member, {name} follows", path=path, offset=offset, key=key)
        key = name
        members.append(member)
        if member.name == "json":
            index[key] = _complete(members, index, path, offset, key)
            key, members = None, []
        offset = member.start + member.size + _padding(member.size)
    if key is not None:
        raise CorruptShardError("the archive ends inside the sample", path=path, offset=offset, key=key)
    expected = offset + 2 * BLOCK + -(offset + 2 * BLOCK) % RECORD
    if len(data) != expected:
        problem = f"has {len(data)} bytes, expected {expected}: cut short, or something was appended"
        raise CorruptShardError(problem, path=path, offset=offset)
    if data[offset:].strip(b"\0"):
        raise CorruptShardError("holds more than zeros behind its last member", path=path, offset=offset)
    return index


def _read_member(
    data: mmap.mmap | bytes | bytearray, header: bytes | bytearray, offset: int, path: Path
) -> tuple[str, Member]:
    """Return the key and the member whose header lies at `offset`."""
    match = re.fullmatch(rb"([A-Za-z0-9_-]+)\.([a-z_.]+)\0*", header[:100])
    size_field = re.fullmatch(rb"([0-7]{11})\0", header[124:136])
    if not match or not size_field or not is_key(match[1].decode()):
        raise CorruptShardError("no header of a member KEY.NAME", path=path, offset=offset)
    key, name, size = match[1].decode(), match[2].decode(), int(size_field[1], 8)
    if header != ustar_header(f"{key}.{name}", size):
        problem = f"header of {name} is not the plain USTAR header of a regular file of mode 0644, owner 0 and time 0"
        raise CorruptShardError(problem, path=path, offset=offset, key=key)
    start = offset + BLOCK
    end = start + size
    if end + _padding(size) > len(data):
        raise CorruptShardError(
            f"the file is cut inside {name}, which has {size} bytes", path=path, offset=offset, key=key
        )
    if data[end : end + _padding(size)].strip(b"\0"):
        raise CorruptShardError(f"the padding behind {name} is not zeros", path=path, offset=end, key=key)
    return key, Member(name, start, size)


def _complete(
    members: list[Member], index: dict[str, tuple[Member, ...]], path: Path, offset: int, key: str
) -> tuple[Member, ...]:
    """Return a sample's members where they are those of the format, and of the samples before."""
    names = tuple(member.name for member in members)
    first = next(iter(index.values()), None)
    allowed = _LAYOUTS if first is None else (tuple(member.name for member in first),)
    if names not in allowed:
        problem = f"has members {', '.join(names)}; expected {', '.join(allowed[-1])}"
        raise CorruptShardError(problem, path=path, offset=offset, key=key)
    return tuple(members)
