"""The interface of a worker of any job, and its results: a description of its work, and each finished shard."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from vilbert.pipeline.jobs.stall import Pulse
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.record import ShardRecord
from vilbert.pipeline.shards.sample import Sample

SHARDS_IN_FLIGHT = 2
"""Number of shards that a worker makes at a time: while one computes, the next reads and decodes."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """Description of a worker, such as its detector. It is the same for all workers of a data set."""

    fingerprint: dict[str, Any]
    feature_dim: int
    class_names: tuple[str, ...]
    soft_labels: bool
    """Whether regions contain the probabilities of their most probable classes."""
    attribute_names: tuple[str, ...]
    software: dict[str, str]
    """Versions of packages, which are recorded but not part of the fingerprint."""


class ShardDone(NamedTuple):
    """A finished shard."""

    record: ShardRecord
    seconds: float
    """Seconds from its start to its end; the worker made another shard at the same time."""
    busy_seconds: float
    """Seconds that the worker's detector was busy since its last finished shard; 0 without a detector."""
    kept: int = 0
    """Rows that existed before and were not tried again."""


class ShardWorker(Protocol):
    """Writes shards. Its methods may be called from several threads."""

    def start(self) -> Description:
        """Load the resources of the worker, such as a detector."""

    def make_shard(self, shard: int, rows: tuple[int, int], retry: bool = False) -> ShardDone:
        """Write the shard of the rows [start, stop); with `retry`, keep its finished samples."""

    def try_rows(self, rows: Sequence[int]) -> list[Sample | FailureRow]:
        """Return the results of some rows, without writing them."""

    def pulse(self) -> Pulse:
        """Return the heartbeat."""

    def stop(self, *, hung: bool = False) -> None:
        """Make every shard in progress end with StoppedError after its current batch.

        Args:
            hung: Whether it is stopped because it makes no progress.
        """

    def is_preparing(self) -> bool:
        """Return whether a thread is preparing an input."""
