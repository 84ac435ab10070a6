"""Features of one byte a value beside float16: bytes, and the time of an epoch over samples of the published sizes.

The same 36 regions of 2048 features in tar shards. A read hands over features, boxes, classes and metadata, and copies
the features as they are stored into their row of a batch, as training does: codes of one byte a value are expanded on
the model's device. An epoch reads every sample once, at random: from the page cache, and from the disk, with the cache
emptied before. By turns, medians.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from benchmarks.loader import conditions
from benchmarks.model import markdown
from benchmarks.samples import SampleShape, draw_captions, draw_samples, draw_words
from vilbert.pipeline.shards.location.layout import data_path
from vilbert.pipeline.shards.small_features import STORED_AS
from vilbert.pipeline.shards.storage.store import open_shard
from vilbert.pipeline.shards.storage.writer import ShardWriter

FIELDS = ("boxes", "features", "class_ids", "class_probs")
NAMES = ("float16", "int8", "float8_e4m3fn")
MOST_BYTES = 0.55
BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    samples: int = 1024
    """Samples, 0.16 MB each in float16."""
    shard_size: int = 128
    """Samples per shard."""
    rounds: int = 9
    """How often each way is timed."""
    seed: int = 0
    """Seed of the samples and of the order of reading."""
    json: bool = False
    """Print one JSON object in place of the table."""


def write(folder: Path, name: str, settings: Settings) -> int:
    """Write the samples with features of this dtype and return the bytes of a sample."""
    captions = draw_captions(draw_words(settings.seed), settings.samples, settings.seed)
    samples = draw_samples(captions, SampleShape(), settings.seed)
    written = 0
    for shard, start in enumerate(range(0, settings.samples, settings.shard_size)):
        stop = min(start + settings.shard_size, settings.samples)
        with ShardWriter(folder, shard=shard, format="tar") as writer:
            for _ in range(start, stop):
                sample = next(samples)
                writer.add(sample if name == "float16" else sample.with_features(STORED_AS[name]))
            written += writer.commit(rows=(start, stop), failures=[], fingerprint="0" * 64).bytes
    return written // settings.samples


def epoch(paths: Sequence[Path], order: Sequence[int], shard_size: int, dtype: str) -> float:
    """Read every sample once and return the seconds."""
    batch: NDArray[Any] = np.empty((BATCH, 36, 2048), dtype)
    scales = np.empty((BATCH, 36, 2), np.float32)
    begun = time.perf_counter()
    with ExitStack() as stack:
        readers = [stack.enter_context(open_shard(path, verify=False)) for path in paths]
        for number in order:
            shard, index = divmod(number, shard_size)
            arrays = readers[shard].read(index, FIELDS, stored=True).arrays
            batch[number % BATCH] = arrays["features"]
            if dtype != "float16":
                scales[number % BATCH] = arrays["feature_scales"]
    return time.perf_counter() - begun


def evict(paths: Sequence[Path]) -> None:
    """Take files out of the page cache."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(folder: Path, settings: Settings) -> dict[str, dict[str, float]]:
    """Return median microseconds a sample, by way and dtype."""
    shards = range(-(-settings.samples // settings.shard_size))
    paths = {name: [data_path(folder / name, shard, "tar") for shard in shards] for name in NAMES}
    order = np.random.default_rng(settings.seed).permutation(settings.samples).tolist()
    ways: dict[str, Callable[[Sequence[Path]], None]] = {"page cache": lambda files: None, "disk": evict}
    taken: dict[str, dict[str, list[float]]] = {way: {name: [] for name in NAMES} for way in ways}
    for _ in range(settings.rounds + 1):  # the first fills caches
        for way, prepare in ways.items():
            for name in NAMES:
                prepare(paths[name])
                taken[way][name].append(epoch(paths[name], order, settings.shard_size, STORED_AS[name]))
    return {
        way: {name: 1e6 * statistics.median(found[1:]) / settings.samples for name, found in names.items()}
        for way, names in taken.items()
    }


def main(settings: Settings) -> int:
    """Print the table; return 1 where int8 takes more bytes than the limit."""
    import torch

    torch.set_num_threads(1)  # as the workers of training have
    facts = conditions()
    with tempfile.TemporaryDirectory() as home:
        sizes = {name: write(Path(home) / name, name, settings) for name in NAMES}
        found = measure(Path(home), settings)
    if settings.json:
        print(json.dumps({"bytes": sizes, "microseconds": found, "limit": MOST_BYTES, "conditions": facts}, indent=2))
    else:
        rows = [
            ["bytes a sample", *(f"{size:,}" for size in sizes.values()), f"{sizes['int8'] / sizes['float16']:.3f}"]
        ]
        for way, times in found.items():
            rows.append(
                [f"µs, {way}", *(f"{it:.1f}" for it in times.values()), f"{times['int8'] / times['float16']:.2f}"]
            )
        print(
            markdown(["", *NAMES, "int8 / float16"], rows),
            "",
            ", ".join(f"{k} {v}" for k, v in facts.items()),
            sep="\n",
        )
    missed = sizes["int8"] > MOST_BYTES * sizes["float16"]
    if missed:
        print(f"int8 takes more than {MOST_BYTES} of the bytes", file=sys.stderr)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
