"""Compare features of one byte per value with float16: bytes, and the time of an epoch.

The samples have the published sizes: 36 regions of 2048 features in tar shards. A read returns features, boxes, classes
and metadata. The features are put into batches as they are stored, as training does: codes of one byte per value are
expanded on the device of the model. An epoch opens the shards and reads every sample once, at random: `page cache`
reads from memory, `disk` empties the cache before. `open` reads from shards that are open and were read before.
`expansion` is the time that the training process needs if the device of the model is a CPU, in one thread. Methods take
turns; the table has medians of CPU time, of wall time, and of the ratios of all rounds.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import tyro
from numpy.typing import NDArray

from benchmarks.columns import BATCH, UsedMemory
from benchmarks.loader import conditions
from benchmarks.model import markdown
from benchmarks.samples import SampleShape, draw_captions, draw_samples, draw_words
from vilbert.pipeline.shards.location.layout import data_path
from vilbert.pipeline.shards.sample import SCALES
from vilbert.pipeline.shards.small_features import STORED_AS, SmallFeatures
from vilbert.pipeline.shards.storage.store import ShardReader, open_shard
from vilbert.pipeline.shards.storage.writer import ShardWriter
from vilbert.pipeline.train.data import feature_rows
from vilbert.pipeline.train.data.feature_rows import FeaturePart

FIELDS = ("boxes", "features", "class_ids", "class_probs")
NAMES = ("float16", "int8", "float8_e4m3fn")
MOST_BYTES = 0.55
REGIONS, CHANNELS = 36, 2048
WAYS = ("page cache", "open", "disk", "expansion")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    samples: int = 1024
    """Samples, 0.16 MB each in float16."""
    shard_size: int = 128
    """Samples per shard."""
    rounds: int = 9
    """Number of measurements of each method."""
    seed: int = 0
    """Seed of the samples and of the order of reading."""
    json: bool = False
    """Print one JSON object instead of the table."""


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


Seconds = NDArray[np.float64]
"""CPU and wall seconds, [2]."""


def clocks() -> Seconds:
    """Return CPU and wall time."""
    return np.array([time.process_time(), time.perf_counter()])


def read_all(readers: Sequence[ShardReader], order: Sequence[int], shard_size: int) -> None:
    """Read every sample once, in batches."""
    for start in range(0, len(order), BATCH):
        images: list[tuple[FeaturePart]] = []
        for number in order[start : start + BATCH]:
            shard, index = divmod(number, shard_size)
            arrays = readers[shard].read(index, FIELDS, stored=True).arrays
            features, scales = arrays["features"], arrays.get(SCALES)
            images.append((features if scales is None else SmallFeatures(features, scales),))
        lay_out(images)


def lay_out(images: Sequence[tuple[FeaturePart]]) -> feature_rows.FeatureRows:
    """Lay features out in a batch, as a worker of training does."""
    return feature_rows.lay_out_features(images, [REGIONS] * len(images), channels=CHANNELS, most=REGIONS)


def epoch(paths: Sequence[Path], order: Sequence[int], shard_size: int) -> Seconds:
    """Open the shards, read every sample once and return the seconds."""
    begun = clocks()
    with ExitStack() as stack:
        read_all([stack.enter_context(open_shard(path, verify=False)) for path in paths], order, shard_size)
    return clocks() - begun


def expansion(readers: Sequence[ShardReader]) -> Seconds:
    """Return the seconds that the features of a sample take from a batch to float16 on a CPU."""
    arrays = readers[0].read(0, FIELDS, stored=True).arrays
    scales = arrays.get(SCALES)
    image = arrays["features"] if scales is None else SmallFeatures(arrays["features"], scales)
    rows = lay_out([(image,)] * BATCH)
    begun = clocks()
    for _ in range(10):
        feature_rows.features_on("cpu", *rows)
    return (clocks() - begun) / (10 * BATCH)


def evict(paths: Sequence[Path]) -> None:
    """Take files out of the page cache."""
    for path in paths:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(folder: Path, settings: Settings) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Return the microseconds a sample, [rounds, 2] CPU and wall, by way and dtype."""
    shards = range(-(-settings.samples // settings.shard_size))
    paths = {name: [data_path(folder / name, shard, "tar") for shard in shards] for name in NAMES}
    order = np.random.default_rng(settings.seed).permutation(settings.samples).tolist()
    taken: dict[str, dict[str, list[Seconds]]] = {way: {name: [] for name in NAMES} for way in WAYS}
    with ExitStack() as stack:
        stack.enter_context(patch.object(feature_rows, "empty_features", UsedMemory().take))
        readers = {
            name: [stack.enter_context(open_shard(path, verify=False)) for path in paths[name]] for name in NAMES
        }
        for _ in range(settings.rounds + 1):  # the first fills caches
            for name in NAMES:
                taken["page cache"][name].append(epoch(paths[name], order, settings.shard_size) / settings.samples)
            for name in NAMES:
                begun = clocks()
                read_all(readers[name], order, settings.shard_size)
                taken["open"][name].append((clocks() - begun) / settings.samples)
            for name in NAMES:
                taken["expansion"][name].append(expansion(readers[name]))
    for _ in range(settings.rounds + 1):
        for name in NAMES:
            evict(paths[name])
            taken["disk"][name].append(epoch(paths[name], order, settings.shard_size) / settings.samples)
    return {way: {name: 1e6 * np.array(it[1:]) for name, it in names.items()} for way, names in taken.items()}


def main(settings: Settings) -> int:
    """Print the table; return 1 where int8 takes more bytes than the limit."""
    import torch

    torch.set_num_threads(1)  # as the workers of training have
    facts = conditions()
    with tempfile.TemporaryDirectory() as home:
        sizes = {name: write(Path(home) / name, name, settings) for name in NAMES}
        found = measure(Path(home), settings)
    lines: dict[str, list[float]] = {}
    for way, times in found.items():
        for column, clock in enumerate(("of CPU", "wall")):
            if way == "expansion" and column:
                continue
            ratio = np.median(times["int8"][:, column] / times["float16"][:, column])
            lines[f"µs {clock}, {way}"] = [*(float(np.median(it[:, column])) for it in times.values()), float(ratio)]
    if settings.json:
        print(json.dumps({"bytes": sizes, "microseconds": lines, "limit": MOST_BYTES, "conditions": facts}, indent=2))
    else:
        rows = [
            ["bytes per sample", *(f"{size:,}" for size in sizes.values()), f"{sizes['int8'] / sizes['float16']:.3f}"]
        ]
        for name, (*values, to_float16) in lines.items():
            shown = "" if "expansion" in name else f"{to_float16:.2f}"
            rows.append([name, *(f"{value:.1f}" for value in values), shown])
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
