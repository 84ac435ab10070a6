"""Measure `vilbert browse` on a million samples: seconds to build the index, milliseconds per page.

The data set has the published number of regions, classes and captions. Its shards are hard links to one shard of
`--shard-size` samples, so a million samples use the disk space of one shard and are read from memory. Features, which
the index does not read, have few channels. Pages are requested as by a browser but within the process, so times include
rendering and exclude the network. Each measurement requests two pages: the first page with new filters, then the next
page of the same result.

The exit status is 1 if a limit is exceeded.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from starlette.testclient import TestClient

from benchmarks.machine import versions
from benchmarks.samples import SampleShape, draw_captions, draw_words
from vilbert.extractors.regions import Regions
from vilbert.pipeline.browse.build import ensure_index
from vilbert.pipeline.browse.command import BrowseSettings
from vilbert.pipeline.browse.server import make_app
from vilbert.pipeline.browse.site import Site
from vilbert.pipeline.shards.dataset import DatasetInfo, fingerprint_digest, sum_records, sum_splits, write_dataset
from vilbert.pipeline.shards.location.layout import data_path, failures_path, record_path
from vilbert.pipeline.shards.record import read_record, read_records, records_digest
from vilbert.pipeline.shards.sample import Sample, describe_fields
from vilbert.pipeline.shards.storage.writer import ShardWriter

BUILD_LIMIT, PAGE_LIMIT = 120.0, 100.0
SHAPE = SampleShape(feature_dim=8, top_classes=4)
ATTRIBUTES = 401
CAPTIONS = 5


def write_data(directory: Path, *, samples: int, shard_size: int) -> None:
    """Write the data set."""
    words = draw_words(0)
    captions = draw_captions(words, CAPTIONS * shard_size, 0)
    draw = np.random.default_rng(0)
    share = 1 / np.arange(1, SHAPE.classes)
    fields = {"extractor": {"detector": "drawn"}, "format": 1}
    info = DatasetInfo(
        storage="tar", shard_size=shard_size, rows=samples, manifest="drawn", manifest_hash="0" * 64,
        fields=describe_fields(feature_dim=SHAPE.feature_dim, top_classes=SHAPE.top_classes, attributes=True),
        feature_dim=SHAPE.feature_dim, class_names=("background", *words[: SHAPE.classes - 1]),
        attribute_names=tuple(words[2000 : 2000 + ATTRIBUTES]), fingerprint=fingerprint_digest(fields),
        fingerprint_fields=fields, software={},
    )  # fmt: skip
    with ShardWriter(directory, shard=0, format="tar") as writer:
        for number in range(shard_size):
            count = int(draw.integers(10, SHAPE.regions * 2 - 9))  # SHAPE.regions in the mean
            corners = np.sort(draw.uniform(0, 1, (count, 2, 2)), axis=1) * [640, 480]
            regions = Regions(
                boxes=corners.reshape(count, 4).astype(np.float32),
                features=draw.standard_normal((count, SHAPE.feature_dim)).astype(np.float16),
                object_ids=(1 + draw.choice(SHAPE.classes - 1, count, p=share / share.sum())).astype(np.uint16),
                object_scores=draw.beta(2, 2, count).astype(np.float32),
                class_ids=np.zeros((count, SHAPE.top_classes), np.uint16),
                class_probs=np.zeros((count, SHAPE.top_classes), np.float16),
                attribute_ids=draw.integers(0, ATTRIBUTES, count).astype(np.uint16),
                attribute_scores=draw.uniform(0, 1, count).astype(np.float32),
                width=640,
                height=480,
            )
            meta = {
                "image_id": f"{number:012}",
                "captions": captions[CAPTIONS * number : CAPTIONS * (number + 1)],
                "split": ("train", "val", "test")[int(draw.choice(3, p=(0.8, 0.1, 0.1)))],
                "uri": f"https://images.example/{number:012}.jpg",
                "sha256": draw.bytes(32).hex(),
            }
            writer.add(Sample(key=f"{number:012}", regions=regions, meta=meta))
        writer.commit(rows=(0, shard_size), failures=[], fingerprint=info.fingerprint)
    first = read_record(record_path(directory, 0))
    for shard in range(1, info.shards):
        os.link(data_path(directory, 0, "tar"), data_path(directory, shard, "tar"))
        os.link(failures_path(directory, 0), failures_path(directory, shard))
        record = replace(first, shard=shard, rows=info.shard_rows(shard), file=f"{shard:06}.tar")
        record_path(directory, shard).write_bytes(record.to_json())
    records = read_records(directory).values()
    write_dataset(
        directory,
        replace(
            info, complete=True, splits=sum_splits(records), totals=sum_records(records),
            records_sha256=records_digest(records),
        ),
    )  # fmt: skip


def urls(site: Site, count: int) -> list[str]:
    """Return pages with filters of every kind, no two alike."""
    draw = np.random.default_rng(1)
    info = site.datasets[0].info
    found = ["/0/", "/0/statistics", "/0/failures"]
    sorts = ["", "", "", "-boxes", "boxes", "-score", "-size", "shuffled", "copies"]
    for number in range(count):
        parts: dict[int, Callable[[], str]] = {
            0: lambda: f"caption={info.class_names[int(draw.integers(1, 1600))]}",
            1: lambda: f"object={info.class_names[int(draw.zipf(1.5)) % 1600 + 1]}",
            2: lambda: f"attribute={info.attribute_names[int(draw.integers(0, ATTRIBUTES))]}",
            3: lambda: f"score_min={int(draw.integers(30, 99)) / 100}",
            4: lambda: f"boxes_min={int(draw.integers(10, 60))}&boxes_max=60",
            5: lambda: "split=val",
            6: lambda: f"words_min={int(draw.integers(5, 20))}",
            7: lambda: f"caption={' '.join(info.class_names[int(at)] for at in draw.integers(1, 300, 2))}",
        }
        chosen = draw.choice(len(parts), int(draw.integers(1, 4)), replace=False)
        query = "&".join(parts[int(at)]() for at in chosen)
        found.append(f"/0/?{query}&sort={sorts[int(draw.integers(len(sorts)))]}&side_max={10_000 + number}")
    keys = site.datasets[0].index.at(draw.integers(0, site.datasets[0].index.samples, count // 4).tolist())
    return [*found, *(f"/0/sample/{row.key}" for row in keys)]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1_000_000)
    parser.add_argument("--shard-size", type=int, default=1_000)
    parser.add_argument("--pages", type=int, default=300)
    parser.add_argument("--num-workers", type=int, default=2)
    parser.add_argument("--keep-index", action="store_true", help="use the index that is there; its time means nothing")
    parser.add_argument("--folder", type=Path, help="where the data set is written; a temporary folder by default")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="browse-"))
    try:
        directory = folder / "data"
        if not directory.exists():
            write_data(directory, samples=options.samples, shard_size=options.shard_size)
        return measure(directory, options)
    finally:
        if options.folder is None:
            shutil.rmtree(folder)


def measure(directory: Path, options: argparse.Namespace) -> int:
    """Build the index, ask for pages, print; return 1 above a limit."""
    from vilbert.pipeline.shards.dataset import read_dataset

    if not options.keep_index:
        shutil.rmtree(directory / ".browse", ignore_errors=True)
    info, records = read_dataset(directory), read_records(directory)
    start, before = time.perf_counter(), sum(os.times()[:4])
    index = ensure_index(directory, info, records, num_workers=options.num_workers)
    built = time.perf_counter() - start
    cpu = sum(os.times()[:4]) - before
    size = sum(path.stat().st_size for path in index.iterdir())
    print(f"machine: {versions()}, load {os.getloadavg()[0]:.1f}")
    print(f"index of {options.samples:,} samples: {built:.1f} s, {cpu:.0f} s of CPU, {size / 1e6:,.0f} MB")
    start = time.perf_counter()
    with Site.open(BrowseSettings(directories=(directory,))) as site:
        print(f"opened in {time.perf_counter() - start:.2f} s, {site.datasets[0].index.regions:,} regions")
        client = TestClient(make_app(site), base_url="http://127.0.0.1")
        client.get("/0/")
        first: list[tuple[float, float]] = []
        second: list[tuple[float, float]] = []
        slowest: list[tuple[float, float, str]] = []
        for url in urls(site, options.pages):
            taken, busy, text = timed(client, url)
            first.append((taken, busy))
            slowest.append((taken, busy, url))
            if 'rel="next" href="' in text and "/sample/" not in url:
                behind = text.partition('rel="next" href="')[2].partition('"')[0].replace("&amp;", "&")
                second.append(timed(client, behind)[:2])
    slow = False
    for name, times in (("first page of new filters", first), ("the page behind it", second)):
        for what, numbers in zip(("elapsed", "CPU"), zip(*times, strict=True), strict=True):
            p50, p95 = np.percentile(numbers, [50, 95])
            print(
                f"{name}, {what}: {len(numbers)} pages, median {p50:.1f} ms, 95 % below {p95:.1f} ms, "
                f"longest {max(numbers):.1f} ms"
            )
            slow |= what == "elapsed" and p95 > PAGE_LIMIT
    for taken, busy, url in sorted(slowest, reverse=True)[:5]:
        print(f"  {taken:.0f} ms, {busy:.0f} ms of CPU: {url}")
    return int(built > BUILD_LIMIT * options.samples / 1_000_000 or slow)


def timed(client: TestClient, url: str) -> tuple[float, float, str]:
    """Return the milliseconds that a page takes, those of the processor in them, and the page."""
    start, before = time.perf_counter(), time.process_time()
    response = client.get(url)
    busy, taken = 1000 * (time.process_time() - before), 1000 * (time.perf_counter() - start)
    assert response.status_code == 200, (url, response.status_code)
    return taken, busy, response.text


if __name__ == "__main__":
    sys.exit(main())
