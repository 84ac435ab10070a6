"""Columns: what a value of a column costs beside the reading of a sample.

A data set of the published sizes (36 regions of 2048 features with their classes), columns for it (a score per image, a
vector of 8 float16 numbers per region), and the data sets that hold the same bytes without a column, as `vilbert
convert --columns` writes them. All are in the page cache. A read takes a sample at random, as training does, and copies
its features into their row of a batch; a joined read looks up the column's value of the same key besides, and copies it
too. `training` reads batches as `pretrain --features base vector` does, by places in data sets.

By turns, medians of CPU time. The cost of joining is the ratio to the same bytes in one data set; the ratio to the base
alone counts the bytes of the column too.
"""

from __future__ import annotations

import json
import os
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
from unittest.mock import patch

import numpy as np
import tyro
from numpy.typing import NDArray

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
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.feature_rows import lay_out_features
from vilbert.pipeline.train.data.order import Places

FIELDS = ("boxes", "features", "class_ids", "class_probs")
MOST = 1.05
"""Time of a joined read, in reads of the same bytes from one data set, at most."""
VECTOR, REGIONS = 8, 36
BATCH = 64
TRAINING = "training: "
BASE, BAKED = "base", "one data set with"


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
        "vector": draw.standard_normal((len(ids), regions, VECTOR)).astype(np.float16),
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


def read_batches(corpus: Corpus, order: NDArray[np.int64], shard_size: int) -> None:
    """Read samples as training does, and lay their features out in batches."""
    for start in range(0, len(order), BATCH):
        numbers = order[start : start + BATCH]
        zeros = np.zeros(len(numbers), np.int64)
        places = Places(zeros, numbers // shard_size, numbers % shard_size, numbers, zeros, zeros, zeros)
        examples = [example for example in corpus.read(places) if example is not None]
        lay_out_features(
            [example.feature_parts for example in examples],
            [len(example.boxes) for example in examples],
            channels=corpus.feature_dim,
            most=REGIONS,
        )


def measure(folder: Path, settings: Settings, stack: ExitStack) -> dict[str, float]:
    """Return the median microseconds of a read, by way."""
    shards = range(-(-settings.samples // settings.shard_size))
    order = np.random.default_rng(settings.seed).permutation(settings.samples)
    passes: dict[str, Callable[[], None]] = {}
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
        passes[name] = partial(each, read, order.tolist())
    for where, features, name in (
        (folder, ("base",), BASE),
        (folder, ("base", "vector"), f"{BASE} and vector"),
        (folder.parent / "vector", ("base",), f"{BAKED} vector"),
    ):
        corpus = stack.enter_context(closing(Corpus.open(where, split=None, features=features)))
        passes[TRAINING + name] = partial(read_batches, corpus, order, settings.shard_size)
    seconds: dict[str, list[float]] = {name: [] for name in passes}
    for _ in range(settings.rounds + 1):  # the first fills caches
        for name, run in passes.items():
            begun = time.process_time()
            run()
            seconds[name].append((time.process_time() - begun) / len(order))
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
        write_columns(folder, [f"{row:08}" for row in range(settings.samples)], REGIONS)
        for name in ("score", "vector"):
            with patch.object(os, "fsync", return_value=None):
                convert(
                    ConvertSettings(
                        sources=(folder,),
                        output=folder.parent / name,
                        shard_size=settings.shard_size,
                        columns=(name,),
                    )
                )
        found = measure(folder, settings, stack)
    joining = {
        name: taken / found[name.replace(f"{BASE} and", BAKED)] for name, taken in found.items() if " and " in name
    }
    whole = {name: found[name] / found[name.removesuffix(name[name.index(" and ") :])] for name in joining}
    if settings.json:
        document = {"microseconds": found, "joining": joining, "to_base": whole, "limit": MOST, "conditions": facts}
        print(json.dumps(document, indent=2))
    else:
        rows = [
            [name, f"{taken:.1f}", *(f"{ratios[name]:.3f}" if name in ratios else "" for ratios in (joining, whole))]
            for name, taken in found.items()
        ]
        print(markdown(["read", "µs of CPU", "to the same bytes in one data set", "to the base alone"], rows), "")
        print(", ".join(f"{k} {v}" for k, v in facts.items()))
    missed = {name: ratio for name, ratio in joining.items() if ratio > MOST}
    for name, ratio in missed.items():
        print(f"{name}: {ratio:.3f}, the limit is {MOST}", file=sys.stderr)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
