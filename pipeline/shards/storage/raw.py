"""A sample as it is stored: what one data set copies from another without decoding it."""

from __future__ import annotations

from typing import NamedTuple


class RawSample(NamedTuple):
    """The stored bytes of a sample, which only a shard of the same storage can take."""

    key: str
    content: memoryview | bytes
    """Of a tar all members before KEY.json, headers and padding included; of LMDB the whole value."""
    metadata: bytes
    """KEY.json. In LMDB it is part of the value, too."""
