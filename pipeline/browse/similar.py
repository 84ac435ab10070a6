"""Regions whose features have the largest cosine with those of a given region.

The search is exact: it reads the features of all regions from the shards, which takes seconds for a million regions. A
larger data set is searched in samples at equal distances that have about MAX_REGIONS regions; the page says so.

Shapes: R regions of a shard, D feature channels.
"""

from __future__ import annotations

import heapq
import threading
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.browse.filters import FilterError
from vilbert.pipeline.browse.index import IndexedSample
from vilbert.pipeline.browse.opened import OpenedDataset
from vilbert.pipeline.errors import CorruptShardError
from vilbert.pipeline.shards.location.layout import data_path
from vilbert.pipeline.shards.storage.store import open_shard

MAX_REGIONS = 1_000_000
FOUND = 48
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


class SimilarRegions:
    """Searches in one data set, one search at a time."""

    def __init__(self, dataset: OpenedDataset) -> None:
        self._dataset = dataset
        self._lock = threading.Lock()
        self._find = lru_cache(maxsize=KEPT_SEARCHES)(self._search)

    def find(self, sample: IndexedSample, region: int) -> Similar:
        """Return the regions most similar to a region of a sample, that one left out."""
        with self._lock:
            return self._find(sample, region)

    def _search(self, sample: IndexedSample, region: int) -> Similar:
        dataset = self._dataset
        features = dataset.read(sample).regions.features
        if region >= len(features):
            raise FilterError(f"region: there are {len(features)}, numbered from 0")
        wanted = unit(features[region].astype(np.float32))
        stride = -(-dataset.index.regions // MAX_REGIONS)
        best: list[SimilarRegion] = []
        searched = first = 0
        for shard, record in dataset.records.items():
            places = range(-first % stride, record.samples, stride)
            try:
                counts, scores = self._compare(shard, places, wanted)
            except CorruptShardError:
                counts, scores = [], np.empty(0, np.float32)  # the grid says that it is left out
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
        return Similar(best, searched, stride)

    def _compare(self, shard: int, places: range, wanted: NDArray[np.float32]) -> tuple[list[int], NDArray[np.float32]]:
        """Return the number of regions of some samples of a shard, and the cosine of each region with a unit vector."""
        import torch

        path = data_path(self._dataset.directory, shard, self._dataset.info.storage)
        with open_shard(path, verify=False) as reader:
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
