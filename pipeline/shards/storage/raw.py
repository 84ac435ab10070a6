"""Samples as they are stored: what one data set copies from another without decoding it."""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple


class RawSample(NamedTuple):
    """The stored bytes of a sample, which only a shard of the same storage can take."""

    key: str
    content: memoryview | bytes
    """Of a tar all members before KEY.json, headers and padding included; of LMDB the whole value."""
    metadata: bytes
    """KEY.json. In LMDB it is part of the value, too."""


class RawRun(NamedTuple):
    """Consecutive samples of a tar shard, which another tar shard takes as they are."""

    keys: tuple[str, ...]
    splits: tuple[object, ...]
    """`split` of each sample's metadata, empty text where it has none."""
    chunks: Generator[memoryview]
    """The stored bytes in pieces. Each is valid until the next is asked for; they are sound once there is no next."""
