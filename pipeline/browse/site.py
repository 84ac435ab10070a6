"""The content of the server: data sets, their photographs, and the model that answers questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vilbert.pipeline.browse.findings import Comparisons
from vilbert.pipeline.browse.images import Photographs
from vilbert.pipeline.browse.index import explained
from vilbert.pipeline.browse.opened import OpenedDataset
from vilbert.pipeline.browse.similar import SimilarRegions
from vilbert.pipeline.browse.statistics import charts
from vilbert.pipeline.extract.fetching.settings import FetchSettings
from vilbert.pipeline.shards.dataset import read_dataset
from vilbert.pipeline.shards.selection.match import open_selections, require_their_data
from vilbert.pipeline.urls import is_remote

if TYPE_CHECKING:
    from vilbert.pipeline.browse.asking import Asking
    from vilbert.pipeline.browse.command import BrowseSettings


@dataclass(frozen=True, kw_only=True, eq=False)
class Site:
    """The content that the server shows."""

    datasets: tuple[OpenedDataset, ...]
    similar: tuple[SimilarRegions, ...]
    """Searches, one for each data set."""
    photographs: Photographs
    comparisons: Comparisons = field(default_factory=Comparisons)
    """The findings of `vilbert compare` for pairs of data sets."""
    asking: Asking | None = None
    """The model of --checkpoint."""

    @staticmethod
    @contextmanager
    def open(settings: BrowseSettings) -> Iterator[Site]:
        """Open everything, and close it at the end of the block."""
        with ExitStack() as stack:
            datasets = []
            selections = open_selections(settings.selection)
            if selections:  # before an index is built, which may take minutes
                local = (folder for folder in settings.directories if not is_remote(str(folder)))
                require_their_data(selections, {read_dataset(it).records_sha256 or "": str(it) for it in local})
            for number, directory in enumerate(settings.directories):
                dataset = OpenedDataset(directory, number=number, num_workers=settings.num_workers)
                stack.callback(dataset.close)
                dataset.select(selections)
                datasets.append(dataset)
            tell_apart(datasets)
            for dataset in datasets:
                with explained(dataset.index.folder):
                    charts(dataset)  # for the pages of statistics
            photographs = Photographs(FetchSettings(allow_private_addresses=settings.allow_private_addresses))
            stack.callback(photographs.close)
            similar = tuple(map(SimilarRegions, datasets))
            for search in similar:
                if search.approximate is not None:
                    stack.callback(search.approximate.close)
            asking = None
            if settings.checkpoint is not None:
                from vilbert.pipeline.browse.asking import Asking  # torch and transformers take seconds

                asking = Asking(settings.checkpoint, task=settings.task, device=settings.device)
            yield Site(datasets=tuple(datasets), similar=similar, photographs=photographs, asking=asking)


def tell_apart(datasets: Sequence[OpenedDataset]) -> None:
    """Add the parent folder to names that occur more than once; use whole paths where that is not enough."""
    for parts in (2, None):
        count = Counter(dataset.name for dataset in datasets)
        for dataset in datasets:
            if count[dataset.name] > 1:
                path = dataset.directory.resolve()
                dataset.name = str(path) if parts is None else "/".join(path.parts[-parts:])
