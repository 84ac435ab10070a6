"""Measure the approximate index of similar regions, compared with an exact search of every region.

Writes a data set with more than a million distinct features: each region lies near one of 1600 centres, varies in 32
directions, has noise in every channel, and is clipped at 0 as after a ReLU. Builds the approximate index of
`vilbert browse` (FAISS), requests the regions similar to random ones as its page does, and compares the ten nearest
with those of a loop over all features.

Prints the seconds and the CPU time of the build, its peak of anonymous memory above that of the process before, the
milliseconds of a page with and without the index, and recall@10. The exit status is 1 below --min-recall.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from starlette.testclient import TestClient

from benchmarks.machine import versions
from benchmarks.samples import SampleShape, draw_words, write_samples
from vilbert.pipeline.browse.approximate import index_path
from vilbert.pipeline.browse.command import BrowseSettings
from vilbert.pipeline.browse.opened import OpenedDataset
from vilbert.pipeline.browse.server import make_app
from vilbert.pipeline.browse.similar import MAX_REGIONS
from vilbert.pipeline.browse.site import Site
from vilbert.pipeline.shards.location.layout import data_path
from vilbert.pipeline.shards.storage.store import open_shard

CENTRES, DIRECTIONS, NOISE = 1600, 32, 0.3
NEAREST = 10


class Features:
    """Draws the features of samples."""

    def __init__(self, dim: int) -> None:
        draw = np.random.default_rng(0)
        self.centres = draw.standard_normal((CENTRES, dim), dtype=np.float32)
        self.directions = draw.standard_normal((DIRECTIONS, dim), dtype=np.float32) / np.float32(np.sqrt(DIRECTIONS))

    def of(self, sample: int, count: int) -> NDArray[np.float16]:
        """Return the features [count, D] of a sample."""
        draw = np.random.default_rng((1, sample))
        features = self.centres[draw.integers(0, CENTRES, count)]
        features += draw.standard_normal((count, DIRECTIONS), dtype=np.float32) @ self.directions
        features += NOISE * draw.standard_normal(features.shape, dtype=np.float32)
        return np.maximum(features, 0).astype(np.float16)


class PeakMemory:
    """Notes the largest anonymous memory of this process while it is open."""

    def __enter__(self) -> PeakMemory:
        self.before = self.peak = anonymous_bytes()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(0.05):
            self.peak = max(self.peak, anonymous_bytes())


def anonymous_bytes() -> int:
    """Return the memory of this process that is no page of a file."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:"))


def exact(dataset: OpenedDataset, wanted: NDArray[np.float32]) -> list[set[tuple[int, int]]]:
    """Return sample and region of the nearest to each vector [Q, D], itself included, by reading every shard."""
    scores = np.full((len(wanted), NEAREST + 1), -2, np.float32)
    places = np.zeros((len(wanted), NEAREST + 1, 2), np.int64)
    first = 0
    for shard, record in dataset.records.items():
        with open_shard(data_path(dataset.directory, shard, dataset.info.storage), verify=False) as reader:
            parts = [reader.read(place, ("features",)).arrays["features"] for place in range(len(reader))]
        features = np.concatenate(parts).astype(np.float32)
        of_shard = wanted @ (features / np.linalg.norm(features, axis=1, keepdims=True)).T  # [Q, R]
        counts = [len(part) for part in parts]
        samples = first + np.repeat(np.arange(len(parts)), counts)
        regions = np.concatenate([np.arange(count) for count in counts])
        best = np.argpartition(-of_shard, NEAREST, axis=1)[:, : NEAREST + 1]
        scores = np.concatenate([scores, np.take_along_axis(of_shard, best, 1)], axis=1)
        places = np.concatenate([places, np.stack([samples[best], regions[best]], axis=-1)], axis=1)
        kept = np.argsort(-scores, axis=1)[:, : NEAREST + 1]
        scores = np.take_along_axis(scores, kept, 1)
        places = np.take_along_axis(places, kept[..., None], 1)
        first += record.samples
    return [{(int(sample), int(region)) for sample, region in row} for row in places]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=32_000, help="of 36 regions each")
    parser.add_argument("--feature-dim", type=int, default=2048)
    parser.add_argument("--shard-size", type=int, default=500)
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--min-recall", type=float, default=0.9)
    parser.add_argument("--folder", type=Path, help="where the data set is written; a temporary folder by default")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="similar-"))
    os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
    try:
        if not (folder / "data").exists():
            write_data(folder / "data", options)
        with Site.open(BrowseSettings(directories=(folder / "data",))) as site:
            return measure(site, options)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


def write_data(directory: Path, options: argparse.Namespace) -> None:
    """Write the data set."""
    shape, features = SampleShape(feature_dim=options.feature_dim, top_classes=1), Features(options.feature_dim)
    words = draw_words(0)
    captions = [words[row % len(words)] for row in range(options.samples)]
    write_samples(
        directory, captions, shape, seed=0, storage="tar", shard_size=options.shard_size, features=features.of
    )


def measure(site: Site, options: argparse.Namespace) -> int:
    """Build, ask and compare; return 1 below the least recall."""
    (dataset,), (similar,) = site.datasets, site.similar
    total = dataset.index.regions
    assert similar.approximate is not None, f"{total:,} regions, an index is built above {MAX_REGIONS:,}"
    draw = np.random.default_rng(2)
    rows = dataset.index.at(draw.choice(dataset.index.samples, options.queries, replace=False).tolist())
    asked = [(row, int(draw.integers(len(dataset.features(row))))) for row in rows]
    wanted = np.stack([dataset.features(row)[region].astype(np.float32) for row, region in asked])
    nearest = exact(dataset, wanted / np.linalg.norm(wanted, axis=1, keepdims=True))
    start, before = time.perf_counter(), sum(os.times()[:4])
    with PeakMemory() as memory:
        similar.approximate.wait()
    built, cpu = time.perf_counter() - start, sum(os.times()[:4]) - before
    if similar.approximate.problem is not None:
        raise SystemExit(similar.approximate.problem)
    size = index_path(dataset).stat().st_size
    print(f"machine: {versions()}, load {os.getloadavg()[0]:.1f}")
    print(f"{total:,} regions of {dataset.info.feature_dim:,} channels, {dataset.index.samples:,} samples")
    print(
        f"index: {built:.0f} s, {cpu:.0f} s of CPU, {size / total:.1f} bytes per region ({size / 1e6:,.0f} MB), peak "
        f"of {(memory.peak - memory.before) / 1e9:.2f} GB above {memory.before / 1e9:.2f} GB"
    )
    client = TestClient(make_app(site), base_url="http://127.0.0.1")
    times = []
    recalls = []
    for (row, region), expected in zip(asked, nearest, strict=True):
        start = time.perf_counter()
        response = client.get(f"/0/similar/{row.key}/{region}")
        times.append(1000 * (time.perf_counter() - start))
        assert response.status_code == 200, response.text
        assert "Approximate: " in response.text
        found = {(it.number, it.region) for it in similar.find(row, region).regions[:NEAREST]}
        recalls.append(len(found & (expected - {(row.number, region)})) / NEAREST)
    p50, p95 = np.percentile(times, [50, 95])
    print(f"page with the index: median {p50:.0f} ms, 95 % below {p95:.0f} ms, longest {max(times):.0f} ms")
    print(f"recall@{NEAREST}: {np.mean(recalls):.3f}, lowest of {len(recalls)} queries {min(recalls):.1f}")
    start = time.perf_counter()
    without = similar._search(*asked[0])  # what a page does before the index is built
    print(f"without it, {without.searched:,} regions compared exactly: {time.perf_counter() - start:.1f} s")
    return int(float(np.mean(recalls)) < options.min_recall)


if __name__ == "__main__":
    sys.exit(main())
