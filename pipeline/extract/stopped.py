"""How a worker leaves its shards."""

from __future__ import annotations

from vilbert.pipeline.shards.errors import ShardError


class StoppedError(Exception):
    """The worker was told to stop; its unfinished shards leave nothing behind."""


class DeviceLostError(ShardError):
    """The GPU failed so that this process cannot use it any more; another process may."""
