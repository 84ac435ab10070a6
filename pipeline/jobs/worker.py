"""What a worker of any job is, and what it returns: a description of its work, and each shard that is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from vilbert.pipeline.jobs.stall import Pulse
from vilbert.pipeline.shards.record import ShardRecord

SHARDS_IN_FLIGHT = 2
"""Of a worker: one has the detector, the other is being decoded; on a GPU both have it."""


@dataclass(frozen=True, kw_only=True)
class Description:
    """What a worker's detector is. All workers of a data set have the same."""

    fingerprint: dict[str, Any]
    feature_dim: int
    class_names: tuple[str, ...]
    soft_labels: bool
    """Whether regions have the probabilities of their most probable classes."""
    attribute_names: tuple[str, ...]
    software: dict[str, str]
    """Versions, for the record: they are not part of the fingerprint."""


class Extracted(NamedTuple):
    """A shard that got done."""

    record: ShardRecord
    seconds: float
    """From its beginning to its end, beside which the worker was at another shard too."""
    detector_seconds: float
    """For which the worker's detector was at images since a shard of it last got done."""
    kept: int = 0
    """Rows that were there before and were not tried again."""


class ShardWorker(Protocol):
    """Makes shards. Its methods may be called from several threads."""

    def start(self) -> Description:
        """Load what the work needs, such as a detector."""

    def extract_shard(self, shard: int, rows: tuple[int, int], retry: bool = False) -> Extracted:
        """Write the shard of the manifest rows [start, stop); with `retry`, keep its finished samples."""

    def pulse(self) -> Pulse:
        """Return a sign of life."""

    def stop(self, *, hung: bool = False) -> None:
        """Let every shard under way end with StoppedError after its current batch.

        Args:
            hung: Whether it is stopped because nothing moves in it.
        """

    def is_preparing(self) -> bool:
        """Return whether a thread is preparing an input."""
