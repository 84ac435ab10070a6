"""Compare shards on disk with webdataset and the published LMDB: bytes per sample, writing speed, random reads.

All formats store the same samples: 36 regions of 2048 features with their classes, in the page cache. A read returns
features, boxes, classes and metadata, and copies the features into their row of a batch, as training does. Our formats
and the published LMDB are read at random, webdataset sequentially, because it supports nothing else. Before the
measurement, all must return the same numbers. Methods take turns; medians are printed. The published LMDB is written
here in its layout: a pickled dict per sample with base64 text of float32 arrays, once with the class probabilities that
pre-training needs and once without.
"""

from __future__ import annotations

import base64
import json
import pickle
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import tyro
from numpy.typing import NDArray

from benchmarks.loader import conditions
from benchmarks.model import cell, markdown
from benchmarks.samples import SampleShape, draw_captions, draw_samples, draw_words
from vilbert.extractors.soft_labels import region_labels
from vilbert.pipeline.shards.location.layout import StorageFormat, data_path
from vilbert.pipeline.shards.sample import Sample
from vilbert.pipeline.shards.storage.store import open_shard
from vilbert.pipeline.shards.storage.writer import ShardWriter

FIELDS = ("boxes", "features", "class_ids", "class_probs")
PUBLISHED, STREAM = "published LMDB, pickled base64 float32", "webdataset, decode()"
PUBLISHED_PLAIN = "published LMDB, without class probabilities"
TAR, LMDB = "ours, tar, memory map", "ours, LMDB"
LEAST_OVER_STREAM, LEAST_OVER_PUBLISHED, MOST_BYTES = 5.0, 15.0, 0.3
BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    samples: int = 512
    """Samples, about 0.15 MB each in our format and 0.7 MB each in the published one."""
    shard_size: int = 128
    """Samples per shard of our format."""
    rounds: int = 7
    """Number of measurements of each method."""
    seed: int = 0
    """Seed of the samples and of the order of reading."""
    json: bool = False
    """Print one JSON object instead of the table."""


Batch = NDArray[Any]
Read = Callable[[Sequence[int], Batch], None]
"""Read the samples of these numbers into a batch's features, [64, N, D], over and over."""


def write_shards(folder: Path, samples: Sequence[Sample], shard_size: int, storage: StorageFormat) -> int:
    """Write samples as shards of ours, fsync and record included, and return their bytes."""
    written = 0
    for shard, start in enumerate(range(0, len(samples), shard_size)):
        stop = min(start + shard_size, len(samples))
        with ShardWriter(folder, shard=shard, format=storage) as writer:
            for sample in samples[start:stop]:
                writer.add(sample)
            written += writer.commit(rows=(start, stop), failures=[], fingerprint="0" * 64).bytes
    return written


def published_value(sample: Sample, classes: int) -> bytes:
    """Return a sample as the published LMDB holds it; classes: 0 to leave the probabilities out."""
    regions = sample.regions
    arrays = {"boxes": regions.boxes, "features": regions.features.astype(np.float32)}
    if classes:
        arrays["cls_prob"] = region_labels(regions, classes)
    row: dict[str, Any] = {
        "image_id": sample.meta["image_id"],
        "image_h": regions.height,
        "image_w": regions.width,
        "num_boxes": len(regions),
    }
    row |= {name: base64.b64encode(array.tobytes()) for name, array in arrays.items()}
    return pickle.dumps(row)


def write_published(path: Path, samples: Sequence[Sample], classes: int) -> int:
    """Write samples in one transaction, as the published converter does, and return the file's bytes."""
    keys = [sample.key.encode() for sample in samples]
    with lmdb.open(str(path), map_size=1 << 40) as environment, environment.begin(write=True) as transaction:
        for key, sample in zip(keys, samples, strict=True):
            transaction.put(key, published_value(sample, classes))
        transaction.put(b"keys", pickle.dumps(keys))
    # The file is as long as its used pages; the map is not written.
    return (path / "data.mdb").stat().st_size


def write_stream(folder: Path, samples: Sequence[Sample], shard_size: int) -> int:
    """Write samples with webdataset's own writer and return the bytes of its tars."""
    import webdataset

    folder.mkdir()
    for shard, start in enumerate(range(0, len(samples), shard_size)):
        with webdataset.TarWriter(str(folder / f"{shard:06}.tar")) as writer:
            for sample in samples[start : start + shard_size]:
                arrays = {f"{name}.npy": array for name, array in sample.regions.arrays().items()}
                writer.write({"__key__": sample.key, **arrays, "json": sample.meta})
    return sum(path.stat().st_size for path in folder.iterdir())


def read_published(transaction: lmdb.Transaction, order: Sequence[int], batch: Batch) -> None:
    """Read as the published reader does: unpickle, decode the text, take the numbers."""
    for place, number in enumerate(order):
        row = pickle.loads(bytes(transaction.get(f"{number:08}".encode()) or b""))  # of this script's own making
        boxes = row["num_boxes"]
        arrays = {
            name: np.frombuffer(base64.b64decode(row[name]), np.float32).reshape(boxes, -1)
            for name in ("boxes", "features", "cls_prob")
            if name in row
        }
        np.copyto(batch[place % BATCH], arrays["features"])


def read_stream(folder: Path, order: Sequence[int], batch: Batch) -> None:
    """Read front to back as many samples as the order has."""
    import webdataset

    shards = [str(path) for path in sorted((folder / "shards").glob("*.tar"))]
    taken = 0
    while taken < len(order):
        for sample in webdataset.WebDataset(shards, shardshuffle=False, empty_check=False).decode():
            np.copyto(batch[taken % BATCH], sample["features.npy"])
            taken += 1
            if taken == len(order):
                return


def read_ours(readers: Sequence[Any], shard_size: int, order: Sequence[int], batch: Batch) -> None:
    """Read by number, as training does."""
    for place, number in enumerate(order):
        shard, index = divmod(number, shard_size)
        np.copyto(batch[place % BATCH], readers[shard].read(index, FIELDS).arrays["features"])


def seconds(act: Callable[[], Any]) -> tuple[float, Any]:
    """Return how long `act` takes, and what it returns."""
    started = time.perf_counter()
    found = act()
    return time.perf_counter() - started, found


def measure_writing(folder: Path, samples: Sequence[Sample], settings: Settings) -> dict[str, dict[str, float]]:
    """Write all samples each way, by turns, and return bytes a sample and MB/s; the last files stay."""
    classes = SampleShape().classes
    ways: dict[str, Callable[[Path], int]] = {
        PUBLISHED: lambda path: write_published(path, samples, classes),
        PUBLISHED_PLAIN: lambda path: write_published(path, samples, 0),
        STREAM: lambda path: write_stream(path, samples, settings.shard_size),
        TAR: lambda path: write_shards(path, samples, settings.shard_size, "tar"),
        LMDB: lambda path: write_shards(path, samples, settings.shard_size, "lmdb"),
    }
    taken: dict[str, list[float]] = {name: [] for name in ways}
    sizes: dict[str, int] = {}
    for turn in range(3):
        for name, write in ways.items():
            if turn:
                (folder / name).rename(folder / f"{name} {turn}")
            spent, sizes[name] = seconds(partial(write, folder / name))
            taken[name].append(spent)
            print(f"write, {name}: {sizes[name] / spent / 1e6:,.0f} MB/s", file=sys.stderr, flush=True)
    return {
        name: {
            "bytes": sizes[name] / len(samples),
            "write": sizes[name] / statistics.median(taken[name]) / 1e6,
            "written": len(samples) / statistics.median(taken[name]),
        }
        for name in ways
    }


def open_all(folder: Path, settings: Settings, stack: ExitStack) -> Iterator[tuple[str, Read, type]]:
    """Yield (name, what reads, dtype of its features) of each way."""
    for name in (PUBLISHED, PUBLISHED_PLAIN):
        environment = stack.enter_context(
            lmdb.open(str(folder / name), readonly=True, lock=False, readahead=False, meminit=False)
        )
        yield name, partial(read_published, stack.enter_context(environment.begin())), np.float32
    yield STREAM, partial(read_stream, folder / TAR), np.float16
    storages: tuple[tuple[str, StorageFormat], ...] = ((TAR, "tar"), (LMDB, "lmdb"))
    for name, storage in storages:
        shards = range(-(-settings.samples // settings.shard_size))
        readers = [
            stack.enter_context(open_shard(data_path(folder / name, shard, storage), verify=False)) for shard in shards
        ]
        yield name, partial(read_ours, readers, settings.shard_size), np.float16


def measure_reading(folder: Path, samples: Sequence[Sample], settings: Settings) -> dict[str, float]:
    """Return samples a second of each way; ValueError where one does not give the samples written."""
    expected = np.stack([sample.regions.features for sample in samples[:BATCH]])
    order = np.random.default_rng((settings.seed, 3)).permutation(settings.samples).tolist()
    with ExitStack() as stack:
        ways: list[tuple[str, Callable[[Sequence[int], Batch], None], Batch]] = [
            (name, read, np.zeros(expected.shape, kind)) for name, read, kind in open_all(folder, settings, stack)
        ]
        for name, read, batch in ways:
            read(range(BATCH), batch)
            if not np.array_equal(batch, expected):
                raise ValueError(f"{name}: gives other features than were written")
        taken: dict[str, list[float]] = {name: [] for name, _, _ in ways}
        for _ in range(settings.rounds):
            for name, read, batch in ways:
                times = 8 if name in (TAR, LMDB) else 1
                spent, _ = seconds(partial(read, order * times, batch))
                taken[name].append(times * settings.samples / spent)
                print(f"read, {name}: {taken[name][-1]:,.0f} samples/s", file=sys.stderr, flush=True)
    return {name: statistics.median(values) for name, values in taken.items()}


def judge(rows: list[dict[str, Any]]) -> list[str]:
    """Return what misses a limit."""
    by_name = {row["way"]: row for row in rows}
    missed = []
    for name in (TAR, LMDB):
        for peer, least in ((STREAM, LEAST_OVER_STREAM), (PUBLISHED, LEAST_OVER_PUBLISHED)):
            if (ratio := by_name[name]["read"] / by_name[peer]["read"]) < least:
                missed.append(f"{name}: reads {ratio:.1f} times as fast as {peer}, the limit is {least:g}")
        if (share := by_name[name]["bytes"] / by_name[PUBLISHED]["bytes"]) > MOST_BYTES:
            missed.append(f"{name}: takes {share:.2f} of the published bytes, the limit is {MOST_BYTES:g}")
    return missed


def main(settings: Settings) -> int:
    """Print the table; return 1 if a limit is missed."""
    facts = conditions()
    captions = draw_captions(draw_words(settings.seed), settings.samples, settings.seed)
    samples = list(draw_samples(captions, SampleShape(), settings.seed))
    with tempfile.TemporaryDirectory() as name:
        written = measure_writing(Path(name), samples, settings)
        read = measure_reading(Path(name), samples, settings)
    rows: list[dict[str, Any]] = [{"way": way, **written[way], "read": read[way]} for way in written]
    for row in rows:
        row["share"] = row["bytes"] / written[PUBLISHED]["bytes"]
        row["stream"], row["published"] = row["read"] / read[STREAM], row["read"] / read[PUBLISHED]
    missed = judge(rows)
    if settings.json:
        print(json.dumps({**facts, "rows": rows, "missed": missed}))
        return int(bool(missed))
    print(", ".join(f"{name} {value}" for name, value in facts.items()) + "\n")
    heads = {
        "bytes": "bytes per sample",
        "share": "ratio to the published",
        "write": "write MB/s",
        "written": "write samples/s",
        "read": "read samples/s",
        "stream": "times webdataset",
        "published": "times the published",
    }
    forms = dict(zip(heads, (",.0f", ".2f", ",.0f", ",.0f", ",.0f", ".1f", ".1f"), strict=True))
    cells = [[row["way"], *(cell(row[key], forms[key]) for key in heads)] for row in rows]
    print(markdown(["method", *heads.values()], cells))
    print(*missed, sep="\n", end="\n" if missed else "")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
