"""A source of samples for a conversion: rows in order, in any storage format."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self, runtime_checkable

from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.sample import Sample


@dataclass(frozen=True, kw_only=True)
class SourceDescription:
    """Properties that all samples of a source share."""

    format: str
    """Name of the format: `vilbert` for data sets, else a name of the registry."""
    fields: dict[str, dict[str, Any]]
    """Arrays of a sample in stored order, as in dataset.json; see `sample.describe_fields`."""
    class_names: tuple[str, ...] = ()
    """Names by class id, 0 is the background; empty if the source has no names."""
    attribute_names: tuple[str, ...] = ()
    """Names by attribute id; empty if the source has no names."""
    fingerprint: dict[str, Any] = field(default_factory=dict)
    """JSON values that the regions depend on: for data sets `fingerprint_fields`; for a file, the options with which it
    is read and, as `origin`, the user's description of the detector."""
    missing: tuple[str, ...] = ()
    """What the format lacks and a data set could have, as text: "class probabilities", "image sizes"."""


class Source(Protocol):
    """An opened data set or file of features. Each process opens its own; it is not shared between threads."""

    @property
    def description(self) -> SourceDescription:
        """What all samples share."""

    @property
    def rows(self) -> int:
        """Number of rows that `read` yields in total."""

    @property
    def content(self) -> str:
        """Hex SHA-256 that identifies the content: for data sets that of the records, for a file that of all rows.

        For this, a file of published features is read completely, once.
        """

    def read(self, start: int, stop: int) -> Iterator[Sample | FailureRow]:
        """Yield the rows [start, stop) in the order of the source, each a sample or the reason why it has none.

        The time does not depend on `start`: formats without an index are indexed when they are opened.

        Raises:
            ShardError: The source as a whole is damaged. Damage of one row is a FailureRow of that row.
        """

    def close(self) -> None:
        """Release files."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Scanned(NamedTuple):
    """The part of a sample that planning needs."""

    key: str
    """See `shards.keys.sample_key`."""
    metadata: dict[str, Any] | None
    """The object of KEY.json, including width, height and num_boxes; None if it was not requested."""


@runtime_checkable
class ScannableSource(Protocol):
    """A source that can list its samples without reading their arrays."""

    def scan(self, start: int, stop: int, *, metadata: bool) -> Iterator[Scanned | FailureRow]:
        """Yield the rows [start, stop) as `read` does, without arrays."""


def scan_source(source: Source, *, metadata: bool) -> Iterator[Scanned | FailureRow]:
    """Yield the part of every row of a source that planning needs, in order.

    Args:
        source: The source; if it cannot list its samples, it is read completely.
        metadata: Whether the metadata is needed, or only the keys.
    """
    if isinstance(source, ScannableSource):
        yield from source.scan(0, source.rows, metadata=metadata)
        return
    for row in source.read(0, source.rows):
        if isinstance(row, FailureRow):
            yield row
        else:
            regions = row.regions
            size = {"width": regions.width, "height": regions.height, "num_boxes": len(regions)}
            yield Scanned(row.key, {**row.meta, **size} if metadata else None)
