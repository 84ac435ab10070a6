"""Whose regions the page of a sample shows: those of the data set, or those that a column has of it."""

from __future__ import annotations

from typing import NamedTuple

from vilbert.pipeline.browse.index import IndexedSample
from vilbert.pipeline.browse.opened import OpenedDataset
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.shards.columns.describe import region_columns, with_regions
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.sample import Sample


class ShownRegions(NamedTuple):
    """The regions of a page."""

    columns: tuple[str, ...]
    """Names of the columns that have regions."""
    column: str
    """The one that is shown; empty for the data set."""
    info: DatasetInfo
    """Names its classes."""
    sample: Sample
    """The sample with its regions."""
    problem: str
    """Why the regions of the column are not shown; empty if they are."""


def shown_regions(dataset: OpenedDataset, found: IndexedSample, sample: Sample, wanted: str) -> ShownRegions:
    """Return the regions to show of a sample of the data set.

    Args:
        dataset: The data set.
        found: Where the sample lies.
        sample: The sample as the data set has it.
        wanted: Name of a column; empty for the data set's own regions.
    """
    folder, own = LocalFolder(dataset.directory), ShownRegions((), "", dataset.info, sample, "")
    try:
        columns = region_columns(folder)
        own = own._replace(columns=tuple(columns))
        if not wanted:
            return own
        column = columns.get(wanted)
        if column is None or column.regions is None:
            return own._replace(problem=f"There is no finished column of regions {wanted!r:.40}.")
        regions = with_regions(folder, column, found.shard, sample)
    except ShardError as error:
        return own._replace(problem=str(error))
    if regions is None:
        return own._replace(problem=f"Column {wanted} has no regions of this sample.")
    return own._replace(column=wanted, info=column.regions, sample=regions)
