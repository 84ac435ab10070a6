"""Stored samples, which are copied from one data set to another without decoding."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple


class RawSample(NamedTuple):
    """The stored bytes of a sample, which can be copied to a shard with the same storage only."""

    key: str
    content: memoryview | bytes
    """For a tar, all members before KEY.json including headers and padding; for LMDB, the whole value."""
    metadata: bytes
    """KEY.json. In LMDB, it is also part of the value."""


class RawRun(NamedTuple):
    """Consecutive samples of a tar shard, which are copied unchanged to another tar shard."""

    keys: tuple[str, ...]
    splits: tuple[object, ...]
    """`split` in each sample's metadata, an empty string if it has none."""
    chunks: Generator[memoryview]
    """The stored bytes in pieces. Each is valid until the next one is read; they are verified after the last one."""
