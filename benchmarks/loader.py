"""Measure pre-training batches per second from disk, compared with the published loader on the same samples.

Full batches: 36 regions of 2048 features, 1601 classes, captions of realistic length, masks and swaps. Methods take
turns in one run with 0, 1 and 2 worker processes each; medians are printed. Before the measurement, both must give the
same batch if nothing is masked. All files are in the page cache. `copy` is the time of a plain copy of a batch's bytes,
as a fraction of the time of our batch. Our loader leaves dense labels, float32 and the global region to the device of
the model; one row includes them, computed on the CPU.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from torch import Tensor

from benchmarks.machine import versions
from benchmarks.model import cell, markdown
from benchmarks.published_loader import Preprocess, Storage, WordByWord, published_batches, write_lmdb
from benchmarks.samples import SampleShape, draw_captions, draw_samples, draw_words, write_samples
from vilbert.pipeline.shards.location.layout import StorageFormat
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.loader import batches
from vilbert.pipeline.train.data.order import Order
from vilbert.pipeline.train.engine.share import Share
from vilbert.pipeline.train.examples.batch import Batch, make_batches
from vilbert.pipeline.train.examples.inputs import to_model_inputs
from vilbert.pipeline.train.examples.item_settings import ItemSettings
from vilbert.pipeline.train.examples.words import new_tokenizer

LIMIT = 8.0
PEER = "published, msgpack"  # what the ratio is against: the faster of the two, and the one for pre-training
OURS: tuple[StorageFormat, ...] = ("tar", "lmdb")
WARM_UP = 4  # batches; as many as two workers are ahead when the first is asked for


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    samples: int = 512
    """Samples, about 0.15 MB each in our format and 0.53 or 0.70 MB each in the published ones."""
    batch_size: int = 64
    """Pairs per batch."""
    shard_size: int = 128
    """Samples per shard of our format."""
    rounds: int = 5
    """Number of measurements of each method."""
    batches: int = 40
    """Batches of our loader per measurement; of the published loader an eighth."""
    workers: tuple[int, ...] = (0, 1, 2)
    """Numbers of worker processes."""
    seed: int = 0
    """Seed of the samples."""
    json: bool = False
    """Print one JSON object instead of the table."""


@dataclass(frozen=True, kw_only=True)
class Way:
    """A row of the table."""

    name: str
    """What the table calls it."""
    workers: int
    """Worker processes."""
    start: Callable[[int], Iterator[Any]]
    """Return an endless iterator of batches, made by so many workers."""
    batches: int
    """How many are timed."""
    limit: float | None = None
    """What the ratio must reach."""


def our_batches(corpus: Corpus, order: Order, tokenizer: Any, settings: Settings, workers: int) -> Iterator[Batch]:
    """Yield batches as training takes them."""
    share = Share(rank=0, world=1, accumulation=1, batch_size=settings.batch_size)
    make = functools.partial(make_batches, corpus, order, tokenizer, ItemSettings(), share, seed=settings.seed)
    for (batch,) in batches(make, range(1 << 40), num_workers=workers):
        yield batch


def with_inputs(made: Iterator[Batch], shape: SampleShape) -> Iterator[dict[str, Tensor]]:
    """Yield the model's arguments: dense labels, float32 features, the global region."""
    for batch in made:
        yield to_model_inputs(batch, "cpu", num_classes=shape.classes, visual_target=0)


def require_equal_batches(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    """Raise ValueError where a batch without masks, in the samples' order, differs."""
    longest = ours["input_ids"].shape[1]
    for name, mine in ours.items():
        other = theirs[name][:, :longest] if theirs[name].shape[1:] == (36,) and "image" not in name else theirs[name]
        if mine.shape != other.shape or not torch.allclose(mine.double(), other.double(), rtol=1e-5, atol=1e-6):
            raise ValueError(f"{name} differs between the two ways; they cannot be compared")


def check_batches(corpus: Corpus, tokenizer: Any, peer: Iterator[dict[str, Tensor]], settings: Settings) -> None:
    """Compare the first batch of both ways, without masks and swaps."""
    size = settings.batch_size
    order = Order(corpus.shard_sizes, seed=0, shuffle=False)
    items = ItemSettings(word_mask=0, region_mask=0, swap=0)
    share = Share(rank=0, world=1, accumulation=1, batch_size=size)
    (made,) = make_batches(corpus, order, tokenizer, items, share, 0, seed=0)
    ours = to_model_inputs(made, "cpu", num_classes=len(corpus.class_names), visual_target=0)
    theirs = next(peer)
    rows = torch.tensor([int(name) for name in made.image_ids])  # ours are sorted by length
    require_equal_batches(ours, {name: value[rows] for name, value in theirs.items()})


Start = Callable[[int], Iterator[Any]]


def write_all(folder: Path, settings: Settings) -> tuple[dict[str, Start], dict[str, Start]]:
    """Write the data sets, compare their batches, and return what starts the published loaders and ours."""
    shape, words, size = SampleShape(), draw_words(settings.seed), settings.batch_size
    captions = draw_captions(words, settings.samples, settings.seed)
    tokenizer = new_tokenizer([*captions, *words])
    masked = Preprocess(tokenizer=WordByWord(dict(tokenizer.get_vocab())), captions=captions)
    plain = dataclasses.replace(masked, masked=False)
    published: dict[str, Start] = {}
    compared: list[Iterator[dict[str, Tensor]]] = []
    storages: tuple[Storage, ...] = ("msgpack", "base64")
    for storage in storages:
        path = folder / f"{storage}.lmdb"
        write_lmdb(path, draw_samples(captions, shape, settings.seed), storage)
        published[storage] = functools.partial(published_batches, path, storage, masked, size)
        compared += [published_batches(path, storage, plain, size, 0) for _ in OURS]
    ours: dict[str, Start] = {}
    for kind in OURS:
        where = folder / kind
        write_samples(where, captions, shape, seed=settings.seed, storage=kind, shard_size=settings.shard_size)
        corpus = Corpus.open([str(where)], split="train")
        order = Order(corpus.shard_sizes, seed=settings.seed)
        ours[kind] = functools.partial(our_batches, corpus, order, tokenizer, settings)
        for _ in storages:
            check_batches(corpus, tokenizer, compared.pop(), settings)
    tar = ours["tar"]
    ours["tar, up to the model's arguments"] = lambda workers: with_inputs(tar(workers), shape)
    return published, ours


def ways(folder: Path, settings: Settings) -> Iterator[Way]:
    """Yield the rows of the table, a number of workers after the other."""
    published, ours = write_all(folder, settings)
    few = -(-settings.batches // 8)
    for number in settings.workers:
        for name, start in published.items():
            yield Way(name=f"published, {name}", workers=number, batches=few, start=start)
        for name, start in ours.items():
            limit = LIMIT if name == "tar" else None
            yield Way(name=f"ours, {name}", workers=number, batches=settings.batches, start=start, limit=limit)


def seconds_a_batch(way: Way) -> float:
    """Return how long a batch takes when the one before was taken at once."""
    made = way.start(way.workers)
    for _ in range(WARM_UP):
        next(made)
    started = time.perf_counter()
    for _ in range(way.batches):
        next(made)
    spent = time.perf_counter() - started
    made.close()  # type: ignore[attr-defined]
    return spent / way.batches


def copy_seconds(way: Way, batches: int = 16) -> float:
    """Return how long a copy of all tensors of a batch takes, into memory that was written before.

    Batches are copied in turn, so that what is read lies in no cache of the CPU, as with samples of a file.
    """
    made = way.start(0)
    sources = [[it for it in vars(next(made)).values() if isinstance(it, Tensor)] for _ in range(batches)]
    room = torch.empty(max(sum(it.nbytes for it in source) for source in sources), dtype=torch.uint8)
    taken = []
    for source in (*sources, *sources):
        targets, start = [], 0
        for it in source:
            targets.append(room[start : start + it.nbytes].numpy())
            start += it.nbytes
        flat = [it.contiguous().view(-1).view(torch.uint8).numpy() for it in source]
        started = time.perf_counter()
        for target, part in zip(targets, flat, strict=True):
            np.copyto(target, part)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[batches:])


def measure(rows: list[Way], settings: Settings) -> list[dict[str, Any]]:
    """Return the rows of the table: samples a second, times the published, limit, share of a plain copy."""
    taken: dict[tuple[str, int], list[float]] = {(way.name, way.workers): [] for way in rows}
    for _ in range(settings.rounds):
        for way in rows:
            taken[way.name, way.workers].append(seconds_a_batch(way))
            speed = settings.batch_size / taken[way.name, way.workers][-1]
            print(f"{way.name}, {way.workers} workers: {speed:,.0f} samples/s", file=sys.stderr, flush=True)
    medians = {key: statistics.median(values) for key, values in taken.items()}
    copied = copy_seconds(next(way for way in rows if way.limit))
    return [
        {
            "way": way.name,
            "workers": way.workers,
            "samples/s": settings.batch_size / (spent := medians[way.name, way.workers]),
            "ratio": medians[PEER, way.workers] / spent,
            "limit": way.limit,
            "copy": copied / spent if way.limit else None,
        }
        for way in rows
    ]


def conditions() -> dict[str, str]:
    """Return what the figures depend on besides the code."""
    return {**versions(), "CPUs": str(len(os.sched_getaffinity(0))), "load": f"{os.getloadavg()[0]:.1f}"}


def main(settings: Settings) -> int:
    """Print the table; return 1 if a limit is missed."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # no threads before the workers fork
    torch.set_num_threads(1)
    facts = conditions()
    with tempfile.TemporaryDirectory() as folder:
        rows = measure(list(ways(Path(folder), settings)), settings)
    missed = [f"{row['way']}, {row['workers']} workers" for row in rows if row["limit"] and row["ratio"] < row["limit"]]
    if settings.json:
        print(json.dumps({**facts, "rows": rows, "missed": missed}))
        return int(bool(missed))
    print(", ".join(f"{name} {value}" for name, value in facts.items()) + "\n")
    forms = {"workers": "", "samples/s": ",.0f", "ratio": ".2f", "limit": "", "copy": ".1%"}
    print(markdown(["method", *forms], [[row["way"], *(cell(row[key], forms[key]) for key in forms)] for row in rows]))
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
