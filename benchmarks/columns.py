"""Measure what reading a value of a column costs in addition to reading a sample.

The data set has the published sizes (36 regions of 2048 features with their classes). Its columns are `score`, a number
per image, `vector`, 8 float16 numbers per region, and `dino`, 2048 of them. The peers are data sets that contain the
same bytes without a column, as `vilbert convert --columns` writes them. All files are in the page cache.

`base` reads a random sample and copies its features into their row of a batch; with a column, the value of the same key
is looked up, too. `training` reads batches as `pretrain --features base vector` does: samples by their position, with
their features in memory that a worker process reuses. `loader` makes complete batches with words and masks.

Methods take turns. The table has CPU time and wall time; the cost of a column is the ratio to the same bytes in one
data set, the median over all rounds.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from torch import Tensor

from benchmarks.loader import conditions
from benchmarks.model import markdown
from benchmarks.samples import SampleShape, draw_captions, draw_words, write_samples
from vilbert.pipeline.rebuild.convert.command import convert
from vilbert.pipeline.rebuild.convert.settings import ConvertSettings
from vilbert.pipeline.shards.columns.add import add_column
from vilbert.pipeline.shards.columns.shard import ColumnShard
from vilbert.pipeline.shards.columns.values_file import open_values
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.location.layout import data_path
from vilbert.pipeline.shards.storage.store import ShardReader, open_shard
from vilbert.pipeline.train.data import feature_rows
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.engine.share import Share
from vilbert.pipeline.train.examples.batch import make_batches
from vilbert.pipeline.train.examples.item_settings import ItemSettings
from vilbert.pipeline.train.examples.words import new_tokenizer

FIELDS = ("boxes", "features", "class_ids", "class_probs")
MOST = 1.05
"""Time of a joined read, in reads of the same bytes from one data set, at most."""
VECTOR, REGIONS = 8, 36
BATCH = 64
TRAINING, LOADER = "training: ", "loader: "
BASE, BAKED = "base", "one data set with"
COLUMNS = ("score", "vector", "dino")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    samples: int = 512
    """Samples, about 0.15 MB each."""
    shard_size: int = 128
    """Samples per shard."""
    rounds: int = 25
    """Number of measurements of each method."""
    seed: int = 0
    """Seed of the samples and of the order of reading."""
    json: bool = False
    """Print one JSON object instead of the table."""


Read = Callable[[int], None]
Seconds = dict[str, NDArray[np.float64]]
"""CPU and wall seconds of a read, [rounds, 2], by way."""


def write_columns(folder: Path, ids: Sequence[str], regions: int) -> None:
    """Add `COLUMNS` to a data set of images with these ids."""
    draw = np.random.default_rng(3)
    values: dict[str, NDArray[Any]] = {
        "score": draw.random(len(ids)),
        "vector": draw.standard_normal((len(ids), regions, VECTOR), np.float32).astype(np.float16),
        "dino": draw.standard_normal((len(ids), regions, 2048), np.float32).astype(np.float16),
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

    def read(number: int) -> None:
        shard, index = divmod(number, shard_size)
        part = readers[shard].read(index, FIELDS)
        batch[number % len(batch)] = part.arrays["features"]
        if columns is not None:
            columns[shard][readers[shard].keys()[index]]

    return read


def each(read: Read, numbers: Sequence[int]) -> None:
    """Read samples one by one."""
    for number in numbers:
        read(number)


class UsedMemory:
    """The memory of a worker process, which is used again for each batch."""

    def __init__(self) -> None:
        self._memory = torch.empty(BATCH * REGIONS * 2 * 2048 * 2, dtype=torch.uint8)

    def take(self, shape: tuple[int, ...], *, room: int, dtype: torch.dtype = torch.float16) -> Tensor:
        """Return memory of a shape, as `empty_features` in a worker."""
        return self._memory[: math.prod(shape) * dtype.itemsize].view(dtype).view(shape)


def read_batches(corpus: Corpus, order: Order, steps: range) -> None:
    """Read samples as training does, and lay their features out in batches."""
    for step in steps:
        places = order.at(np.arange(step * BATCH, (step + 1) * BATCH))
        examples = [example for example in corpus.read(places) if example is not None]
        feature_rows.lay_out_features(
            [example.feature_parts for example in examples],
            [len(example.boxes) for example in examples],
            channels=corpus.feature_dim,
            most=REGIONS,
        )


def load_batches(corpus: Corpus, order: Order, tokenizer: Any, steps: range) -> None:
    """Make whole batches, as a worker of training does."""
    share = Share(rank=0, world=1, accumulation=1, batch_size=BATCH)
    for step in steps:
        make_batches(corpus, order, tokenizer, ItemSettings(), share, step, seed=0)


def ways_of_reading(
    folder: Path, captions: Sequence[str], settings: Settings, stack: ExitStack
) -> dict[str, Callable[[], None]]:
    """Return what reads all samples once, by way."""
    shards = range(-(-settings.samples // settings.shard_size))
    numbers = np.random.default_rng(settings.seed).permutation(settings.samples).tolist()
    ways: dict[str, Callable[[], None]] = {}
    for where, joined, name in (
        (folder, False, BASE),
        (folder, True, f"{BASE} and score"),
        (folder.parent / "score", False, f"{BAKED} score"),
    ):
        readers = [stack.enter_context(open_shard(data_path(where, at, "tar"), verify=False)) for at in shards]
        files = [data_path(folder / "columns/score", at, "tar") for at in shards] if joined else []
        opened = [stack.enter_context(ColumnShard(file, name="score", member="json")) for file in files]
        batch = np.empty((BATCH, REGIONS, 2048), np.float16)
        read = reading(readers, opened or None, settings.shard_size, batch)
        ways[name] = partial(each, read, numbers)
    tokenizer, steps = new_tokenizer(captions), range(settings.samples // BATCH)
    for where, features, name in (
        (folder, (BASE,), BASE),
        *((folder, (BASE, column), f"{BASE} and {column}") for column in COLUMNS[1:]),
        *((folder.parent / column, (BASE,), f"{BAKED} {column}") for column in COLUMNS[1:]),
    ):
        corpus = stack.enter_context(closing(Corpus.open(where, split=None, features=features)))
        order = Order(corpus.shard_sizes, seed=settings.seed)
        ways[TRAINING + name] = partial(read_batches, corpus, order, steps)
        ways[LOADER + name] = partial(load_batches, corpus, order, tokenizer, steps)
    return ways


def measure(ways: dict[str, Callable[[], None]], settings: Settings) -> Seconds:
    """Return the seconds of a read, by way."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    for _ in range(settings.rounds + 1):  # the first fills caches
        for name, run in ways.items():
            cpu, wall = time.process_time(), time.perf_counter()
            run()
            taken[name].append((time.process_time() - cpu, time.perf_counter() - wall))
    return {name: np.array(times[1:]) / settings.samples for name, times in taken.items()}


def joining_costs(seconds: Seconds) -> dict[str, list[float]]:
    """Return the ratios, of CPU time and of wall time, of a joined read to one of the same bytes, by way."""
    pairs = {name: name.replace(f"{BASE} and", BAKED) for name in seconds if " and " in name}
    return {name: np.median(seconds[name] / seconds[baked], axis=0).tolist() for name, baked in pairs.items()}


def main(settings: Settings) -> int:
    """Print the table; return 1 where the limit is missed."""
    facts = conditions()
    torch.set_num_threads(1)  # as the workers of training have
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
        write_columns(folder, [f"{row:08}" for row in range(settings.samples)], REGIONS)
        for name in COLUMNS:
            baked = ConvertSettings(
                sources=(folder,), output=folder.parent / name, shard_size=settings.shard_size, columns=(name,)
            )
            with patch.object(os, "fsync", return_value=None):
                convert(baked)
        stack.enter_context(patch.object(feature_rows, "empty_features", UsedMemory().take))
        seconds = measure(ways_of_reading(folder, captions, settings, stack), settings)
    joining = joining_costs(seconds)
    medians = {name: (1e6 * np.median(found, axis=0)).tolist() for name, found in seconds.items()}
    if settings.json:
        print(json.dumps({"microseconds": medians, "joining": joining, "limit": MOST, "conditions": facts}, indent=2))
    else:
        rows = [
            [name, *(f"{it:.1f}" for it in taken), *(f"{it:.3f}" for it in joining.get(name, ()))]
            for name, taken in medians.items()
        ]
        heads = ["read", "µs of CPU", "µs", "CPU ratio to one data set with the same bytes", "wall-time ratio"]
        print(markdown(heads, [row + [""] * (len(heads) - len(row)) for row in rows]), "")
        print(", ".join(f"{k} {v}" for k, v in facts.items()))
    missed = {name: ratios[0] for name, ratios in joining.items() if ratios[0] > MOST}
    for name, ratio in missed.items():
        print(f"{name}: {ratio:.3f} of the CPU time, the limit is {MOST}", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
