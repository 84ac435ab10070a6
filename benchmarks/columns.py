"""Columns: what a value of a column costs beside the reading of a sample.

A data set of the published sizes (36 regions of 2048 features with their classes) and columns for it: a score per image
and a vector of 8 numbers per region. All are in the page cache. A read takes a sample at random, as training does, and
copies its features into their row of a batch; a joined read looks up the column's value of the same key besides, and
copies it too. `training` reads batches as `pretrain --features base vector` does, by places in data sets. By turns,
medians; each ratio is to the same way of reading without the column.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from numpy.typing import NDArray

from benchmarks.loader import conditions
from benchmarks.model import markdown
from benchmarks.samples import SampleShape, draw_captions, draw_words, write_samples
from vilbert.pipeline.shards.columns.add import add_column
from vilbert.pipeline.shards.columns.info import Member
from vilbert.pipeline.shards.columns.shard import ColumnShard
from vilbert.pipeline.shards.columns.values_file import open_values
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.location.layout import data_path
from vilbert.pipeline.shards.storage.store import ShardReader, open_shard
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.order import Places

FIELDS = ("boxes", "features", "class_ids", "class_probs")
MOST = 1.05
"""Time of a joined read, in reads of the base alone, at most."""
VECTOR = 8
BATCH = 64
TRAINING = "training: base"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    samples: int = 512
    """Samples, about 0.15 MB each."""
    shard_size: int = 128
    """Samples per shard."""
    rounds: int = 15
    """How often each way is timed."""
    seed: int = 0
    """Seed of the samples and of the order of reading."""
    json: bool = False
    """Print one JSON object in place of the table."""


Read = Callable[[int], None]


def write_columns(folder: Path, ids: Sequence[str], regions: int) -> None:
    """Add the columns `score` and `vector` to a data set of images with these ids."""
    draw = np.random.default_rng(3)
    values: dict[str, NDArray[Any]] = {
        "score": draw.random(len(ids)),
        "vector": draw.standard_normal((len(ids), regions, VECTOR), np.float32),
    }
    for name, array in values.items():
        np.save(folder.parent / f"{name}.npy", array)
        (folder.parent / "ids.txt").write_text("\n".join(ids))
        opened = open_values(
            folder.parent / f"{name}.npy", ids=folder.parent / "ids.txt", id_column="", value_column=None
        )
        add_column(LocalFolder(folder), name, opened, missing="error")


def reading(
    readers: Sequence[ShardReader], columns: Sequence[ColumnShard] | None, shard_size: int, batch: NDArray[Any]
) -> Read:
    """Return a function that reads the sample of a number, and its value of the columns where they are given."""
    extra = np.empty((36, VECTOR), np.float32)

    def read(number: int) -> None:
        shard, index = divmod(number, shard_size)
        part = readers[shard].read(index, FIELDS)
        batch[number % len(batch)] = part.arrays["features"]
        if columns is not None:
            value = columns[shard][readers[shard].keys()[index]]
            if isinstance(value, np.ndarray):
                extra[:] = value

    return read


def each(read: Read, numbers: Sequence[int]) -> None:
    """Read samples one by one."""
    for number in numbers:
        read(number)


def read_batches(corpus: Corpus, order: NDArray[np.int64], shard_size: int) -> None:
    """Read samples as training does, and copy their features into batches."""
    batch = np.empty((BATCH, 36, corpus.feature_dim), np.float16)
    for start in range(0, len(order), BATCH):
        numbers = order[start : start + BATCH]
        zeros = np.zeros(len(numbers), np.int64)
        places = Places(zeros, numbers // shard_size, numbers % shard_size, numbers, zeros, zeros, zeros)
        for row, example in enumerate(corpus.read(places)):
            if example is not None:
                example.copy_features(batch[row, : len(example.boxes)])


def measure(folder: Path, settings: Settings, stack: ExitStack) -> dict[str, float]:
    """Return the median microseconds of a read, by way."""
    shards = range(-(-settings.samples // settings.shard_size))
    readers = [stack.enter_context(open_shard(data_path(folder, shard, "tar"), verify=False)) for shard in shards]
    members: dict[str, Member] = {"score": "json", "vector": "npy"}
    opened = {
        name: [
            stack.enter_context(ColumnShard(data_path(folder / "columns" / name, at, "tar"), name=name, member=member))
            for at in shards
        ]
        for name, member in members.items()
    }
    batch = np.empty((64, 36, 2048), np.float16)
    ways = {
        "base alone": reading(readers, None, settings.shard_size, batch),
        **{f"base and {name}": reading(readers, opened[name], settings.shard_size, batch) for name in members},
    }
    order = np.random.default_rng(settings.seed).permutation(settings.samples)
    passes: dict[str, Callable[[], None]] = {name: partial(each, read, order.tolist()) for name, read in ways.items()}
    for name, features in {TRAINING: ("base",), f"{TRAINING} and vector": ("base", "vector")}.items():
        corpus = stack.enter_context(closing(Corpus.open(folder, split=None, features=features)))
        passes[name] = partial(read_batches, corpus, order, settings.shard_size)
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(settings.rounds + 1):  # the first fills caches
        for name, run in passes.items():
            begun = time.perf_counter()
            run()
            seconds[name].append((time.perf_counter() - begun) / len(order))
    return {name: 1e6 * statistics.median(taken[1:]) for name, taken in seconds.items()}


def main(settings: Settings) -> int:
    """Print the table; return 1 where the limit is missed."""
    facts = conditions()
    with tempfile.TemporaryDirectory() as home, ExitStack() as stack:
        captions = draw_captions(draw_words(settings.seed), settings.samples, settings.seed)
        folder = write_samples(
            Path(home) / "data",
            captions,
            SampleShape(),
            storage="tar",
            shard_size=settings.shard_size,
            seed=settings.seed,
        )
        write_columns(folder, [f"{row:08}" for row in range(settings.samples)], 36)
        found = measure(folder, settings, stack)
    ratios = {name: taken / found[TRAINING if TRAINING in name else "base alone"] for name, taken in found.items()}
    if settings.json:
        print(json.dumps({"microseconds": found, "ratios": ratios, "limit": MOST, "conditions": facts}, indent=2))
    else:
        rows = [[name, f"{found[name]:.1f}", f"{ratios[name]:.3f}"] for name in found]
        print(markdown(["read", "µs", "ratio"], rows), "", ", ".join(f"{k} {v}" for k, v in facts.items()), sep="\n")
    missed = {name: ratio for name, ratio in ratios.items() if ratio > MOST}
    for name, ratio in missed.items():
        print(f"{name}: {ratio:.3f}, the limit is {MOST}", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
