"""Regions whose features have the largest cosine with those of a given region.

Up to MAX_REGIONS regions the search is exact: it reads the features of all regions from the shards, which takes seconds
for a million. A larger data set is searched with an approximate index, whose nearest regions are then compared exactly.
Until that index is built, samples at equal distances are searched that have about MAX_REGIONS regions. The page says
which of the three it was. Regions of samples that are not selected are not searched, and do not count.

Shapes: R regions of a shard, D feature channels.
"""

from __future__ import annotations

import heapq
import threading
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.browse.approximate import ApproximateIndex
from vilbert.pipeline.browse.filters import FilterError
from vilbert.pipeline.browse.index import IndexedSample
from vilbert.pipeline.browse.opened import OpenedDataset
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.shards.location.layout import data_path
from vilbert.pipeline.shards.storage.store import open_shard

MAX_REGIONS = 1_000_000
FOUND = 48
CANDIDATES = 10 * FOUND
"""Regions of the approximate index that are compared exactly."""
KEPT_SEARCHES = 32


class SimilarRegion(NamedTuple):
    """A region that was found."""

    cosine: float
    number: int
    """Of its sample."""
    region: int
    """Its place in the sample's arrays."""


class Similar(NamedTuple):
    """What a search found."""

    regions: list[SimilarRegion]
    """The most similar first."""
    searched: int
    """Regions that were compared."""
    stride: int
    """1: all samples were searched; else every `stride`-th."""
    total: int
    """Regions of all samples that are shown."""
    approximate: bool = False
    """Whether regions were chosen by an approximate index of all regions, and then compared."""
    progress: float | None = None
    """Share of the approximate index that is built; None if it is not needed or cannot be built."""
    problem: str | None = None
    """Why there is no approximate index."""


class SimilarRegions:
    """Searches in one data set, one search at a time."""

    def __init__(self, dataset: OpenedDataset) -> None:
        self._dataset = dataset
        self._lock = threading.Lock()
        self._find = lru_cache(maxsize=KEPT_SEARCHES)(self._search)
        self._find_approximately = lru_cache(maxsize=KEPT_SEARCHES)(self._search_approximately)
        columns = dataset.index.columns
        self._shown = dataset.index.shown
        self._total = int(columns["boxes"][self._shown].sum(dtype=np.int64))
        self.approximate = ApproximateIndex(dataset) if self._total > MAX_REGIONS else None

    def find(self, sample: IndexedSample, region: int) -> Similar:
        """Return the regions most similar to a region of a sample, that one left out."""
        index = self.approximate
        with self._lock:
            if index is None:
                return self._find(sample, region)
            if index.ready():
                return self._find_approximately(sample, region)
            found = self._find(sample, region)
        return found._replace(progress=None if index.problem else index.progress, problem=index.problem)

    def _wanted(self, sample: IndexedSample, region: int) -> NDArray[np.float32]:
        """Return the unit vector [D] of a region."""
        features = self._dataset.features(sample)
        if region >= len(features):
            raise FilterError(f"region: there are {len(features)}, numbered from 0")
        return unit(features[region].astype(np.float32))

    def _search_approximately(self, sample: IndexedSample, region: int) -> Similar:
        dataset, wanted = self._dataset, self._wanted(sample, region)
        assert self.approximate is not None
        near: dict[int, list[int]] = {}
        for number, at in self.approximate.candidates(wanted, CANDIDATES):
            near.setdefault(number, []).append(at)
        found: list[SimilarRegion] = []
        for row in dataset.index.at(sorted(near)):
            try:
                features = dataset.features(row)
            except ShardError:  # removed since
                continue
            found += (
                SimilarRegion(float(unit(features[at].astype(np.float32)) @ wanted), row.number, at)
                for at in near[row.number]
                if (row.number, at) != (sample.number, region)
            )
        return Similar(heapq.nlargest(FOUND, found), self._total, 1, self._total, approximate=True)

    def _search(self, sample: IndexedSample, region: int) -> Similar:
        dataset, wanted = self._dataset, self._wanted(sample, region)
        stride = max(1, -(-self._total // MAX_REGIONS))
        numbers = self._shown[::stride]
        best: list[SimilarRegion] = []
        searched = first = 0
        for shard, record in dataset.records.items():
            start, stop = np.searchsorted(numbers, (first, first + record.samples))
            places = (numbers[start:stop] - first).tolist()
            try:
                counts, scores = self._compare(shard, places, wanted)
            except ShardError:  # damaged, which the grid says, or removed or replaced since
                counts, scores = [], np.empty(0, np.float32)
            searched += len(scores)
            starts = np.cumsum([0, *counts])
            top = np.argpartition(-scores, FOUND)[: FOUND + 1] if len(scores) > FOUND + 1 else np.arange(len(scores))
            for at in top.tolist():
                place = int(np.searchsorted(starts, at, side="right")) - 1
                number = first + places[place]
                if (number, at - starts[place]) != (sample.number, region):
                    best.append(SimilarRegion(float(scores[at]), number, int(at - starts[place])))
            best = heapq.nlargest(FOUND, best)
            first += record.samples
        return Similar(best, searched, stride, self._total)

    def _compare(
        self, shard: int, places: list[int], wanted: NDArray[np.float32]
    ) -> tuple[list[int], NDArray[np.float32]]:
        """Return the number of regions of some samples of a shard, and the cosine of each region with a unit vector."""
        import torch

        path = data_path(self._dataset.directory, shard, self._dataset.info.storage)
        with open_shard(path, verify=False) as reader:
            if len(reader) != self._dataset.records[shard].samples:
                raise ShardError(f"{path}: was replaced since the index was built; start `vilbert browse` again")
            parts = [reader.read(place, ("features",)).arrays["features"] for place in places]
            counts = [len(part) for part in parts]
            if not sum(counts):
                return counts, np.empty(0, np.float32)
            features = torch.from_numpy(np.concatenate(parts)).float()
        norms = features.norm(dim=1).clamp_min(1e-12)
        scores = (features @ torch.from_numpy(wanted)) / norms
        return counts, np.nan_to_num(scores.numpy(), nan=-1.0, posinf=-1.0, neginf=-1.0)


def unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return a vector of length 1 in the same direction; zeros for one that has none."""
    length = float(np.linalg.norm(vector))
    made: NDArray[np.float32] = vector / length if np.isfinite(length) and length > 0 else np.zeros_like(vector)
    return made
