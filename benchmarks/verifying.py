"""Measure the cost of comparing shards with their records: hashing alone, opening a shard, and an epoch.

Samples have the published sizes (36 regions of 2048 features). Here an epoch only reads the samples, each once in the
order of training. A training step takes much longer, so the share of a real epoch is smaller.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import tyro

from benchmarks.samples import SampleShape, draw_captions, draw_words, write_samples
from vilbert.pipeline.shards.location.layout import StorageFormat, data_path
from vilbert.pipeline.shards.storage.store import open_shard
from vilbert.pipeline.shards.storage.verified import VerifiedFiles, file_sha256
from vilbert.pipeline.train.data.corpus import Corpus
from vilbert.pipeline.train.data.order import Order

BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to measure."""

    samples: int = 2000
    """Samples of the data set."""
    shard_size: int = 500
    """Samples per shard."""
    repeats: int = 3
    """Measurements of each method; the fastest counts, because other work on the machine can only slow it down."""
    seed: int = 0
    """Seed of the samples."""


def fastest(act: Callable[[], object], repeats: int) -> float:
    """Return the seconds of the fastest of several calls."""
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        act()
        taken.append(time.perf_counter() - started)
    return min(taken)


def read_epoch(folder: Path, *, verify: bool) -> None:
    """Read each sample once, as a training process without loaders does."""
    corpus = Corpus.open([str(folder)], split=None, verified=VerifiedFiles() if verify else None)
    order = Order(corpus.shard_sizes, seed=1)
    for start in range(0, order.epoch_size, BATCH):
        examples = corpus.read(order.at(np.arange(start, min(start + BATCH, order.epoch_size))))
        np.stack([example.features for example in examples if example is not None])
    corpus.close()


def open_only(path: Path) -> None:
    """Open a shard without comparing it."""
    open_shard(path, verify=False).close()


def main(settings: Settings) -> int:
    """Print the table."""
    from benchmarks.model import markdown  # imports torch

    captions = draw_captions(draw_words(settings.seed), settings.samples, settings.seed)
    storages: tuple[StorageFormat, ...] = ("tar", "lmdb")
    rows = []
    with tempfile.TemporaryDirectory() as name:
        for storage in storages:
            folder = Path(name) / storage
            write_samples(
                folder, captions, SampleShape(), seed=settings.seed, storage=storage, shard_size=settings.shard_size
            )
            path = data_path(folder, 0, storage)
            size = path.stat().st_size
            alone = fastest(partial(file_sha256, path), settings.repeats)
            opened = fastest(partial(open_only, path), settings.repeats)
            plain = fastest(partial(read_epoch, folder, verify=False), settings.repeats)
            compared = fastest(partial(read_epoch, folder, verify=True), settings.repeats)
            rows.append(
                [
                    storage,
                    f"{size / 1e6:,.0f}",
                    f"{size / alone / 1e9:.2f}",
                    f"{opened * 1e3:,.1f}",
                    f"{(opened + alone) * 1e3:,.0f}",
                    f"{settings.samples / plain:,.0f}",
                    f"{settings.samples / compared:,.0f}",
                    f"{(compared - plain) / settings.samples * 1e6:,.0f}",
                ]
            )
    head = ["storage", "MB per shard", "GB/s hashed", "ms to open, structure only", "ms to open, with SHA-256"]
    head += ["samples/s read", "samples/s read, with SHA-256", "µs of SHA-256 per sample, first epoch only"]
    print(markdown(head, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Settings)))
