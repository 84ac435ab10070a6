"""Stored features, read by row: a data set, or a file of published features."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from vilbert.pipeline.rebuild.compare.settings import CompareSettings
from vilbert.pipeline.rebuild.open_features import open_features
from vilbert.pipeline.rebuild.source import Source, scan_source
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.location.folder import parse_place
from vilbert.pipeline.shards.sample import Sample


class FeatureSet:
    """A source with the operations that a comparison needs. It must not be shared between threads."""

    def __init__(self, name: str, source: Source) -> None:
        self.name = name
        self._source = source
        description = source.description
        self.format = description.format
        """`vilbert`, or the name of a published format."""
        self.class_names = description.class_names
        """Names by class id; empty if the set has no names."""
        recorded = description.fingerprint.get("fingerprint_fields")
        self.facts: Mapping[str, Any] = recorded if isinstance(recorded, Mapping) else {}
        """Its record of how it was made: the fingerprint of a data set; else empty."""
        self.rows = source.rows
        """Number of rows."""

    def keys(self) -> Iterator[tuple[int, str]]:
        """Yield the row and the key of each sample; see `shards.keys.sample_key`."""
        for row, scanned in enumerate(scan_source(self._source, metadata=False)):
            if not isinstance(scanned, FailureRow):
                yield row, scanned.key

    def sample(self, row: int) -> Sample | FailureRow:
        """Return the sample of a row, or the reason why it has none."""
        return next(iter(self._source.read(row, row + 1)))

    def close(self) -> None:
        """Release files."""
        self._source.close()


def open_set(name: str, settings: CompareSettings) -> FeatureSet:
    """Open stored features by path or URL; the SHA-256 of shards is not checked here but by `vilbert verify`.

    Raises:
        ShardError: They do not exist or are damaged.
    """
    source = open_features(parse_place(name), settings.source_format, settings.importing, verify=False)
    return FeatureSet(name, source)
