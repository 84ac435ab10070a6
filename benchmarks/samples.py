"""Synthetic data sets with the published sizes: 36 regions of 2048 features, 1601 classes, realistic captions.

The files have the format that `vilbert extract` writes. Everything is drawn from a seed. Features are float16 numbers,
and class distributions are those that 20 classes give, so that a format that stores float32 and 1601 probabilities
contains the same values.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from benchmarks.batches import caption_lengths
from vilbert.extractors.regions import Regions
from vilbert.pipeline.shards.dataset import DatasetInfo, fingerprint_digest, sum_records, sum_splits, write_dataset
from vilbert.pipeline.shards.location.layout import StorageFormat
from vilbert.pipeline.shards.record import records_digest
from vilbert.pipeline.shards.sample import Sample, describe_fields
from vilbert.pipeline.shards.storage.writer import ShardWriter

WORDS = 30_000  # as many as BERT has word pieces
LETTERS = ("bcdfghklmnprstvw", "aeiou")
WIDTH, HEIGHT = 640, 480

DrawFeatures = Callable[[int, int], NDArray[np.float16]]
"""Returns the features [N, D] of a sample, from its number and N."""


@dataclass(frozen=True, kw_only=True)
class SampleShape:
    """How large the samples of a data set are."""

    regions: int = 36
    """N"""
    feature_dim: int = 2048
    """D"""
    classes: int = 1601
    """The background included."""
    top_classes: int = 20
    """K"""


def draw_words(seed: int) -> list[str]:
    """Return 30 000 words of 2 to 10 letters, no two alike, the short ones first, as frequent words are."""
    draw = np.random.default_rng(seed)
    found: dict[str, None] = {}
    while len(found) < WORDS:
        syllables = 1 + min(len(found) // 40 + 1, 4) * draw.random()
        letters = [draw.choice(list(LETTERS[place % 2])) for place in range(2 * round(syllables))]
        found["".join(letters)] = None
    return list(found)


def draw_captions(words: Sequence[str], rows: int, seed: int) -> list[str]:
    """Return captions whose lengths are those of `batches.caption_lengths`, of words as frequent as their rank says."""
    draw = np.random.default_rng((seed, 1))
    lengths = draw.permutation([length - 2 for length in caption_lengths(rows, words=36)])
    share = 1 / np.arange(10, len(words) + 10)
    chosen = draw.choice(len(words), int(lengths.sum()), p=share / share.sum())
    parts = np.split(chosen, np.cumsum(lengths)[:-1])
    return [" ".join(words[which] for which in part).capitalize() for part in parts]


def draw_sample(row: int, caption: str, shape: SampleShape, seed: int, features: DrawFeatures | None = None) -> Sample:
    """Return sample `row` of a data set; features: draws its features, by default without structure."""
    draw = np.random.default_rng((seed, 2, row))
    corners = np.sort(draw.uniform(0, 1, (shape.regions, 2, 2)), axis=1) * [WIDTH, HEIGHT]
    class_ids = np.argpartition(draw.random((shape.regions, shape.classes)), shape.top_classes)[:, : shape.top_classes]
    probs = -np.sort(-draw.dirichlet(np.ones(shape.top_classes + 1), shape.regions), axis=1)[:, : shape.top_classes]
    drawn = draw_features(draw, shape) if features is None else features(row, shape.regions)
    return Sample(
        key=f"{row:08}",
        regions=Regions(
            boxes=corners.reshape(-1, 4).astype(np.float32),
            features=drawn,
            object_ids=class_ids[:, 0].astype(np.uint16),
            object_scores=probs[:, 0].astype(np.float32),
            class_ids=class_ids.astype(np.uint16),
            class_probs=probs.astype(np.float16),
            width=WIDTH,
            height=HEIGHT,
        ),
        meta={"image_id": f"{row:08}", "captions": [caption], "split": "train"},
    )


def draw_features(draw: np.random.Generator, shape: SampleShape) -> NDArray[np.float16]:
    """Return features [N, D] of independent channels."""
    features = draw.standard_normal((shape.regions, shape.feature_dim), dtype=np.float32)
    return np.maximum(features, 0).astype(np.float16)


def draw_samples(
    captions: Sequence[str], shape: SampleShape, seed: int, features: DrawFeatures | None = None
) -> Iterator[Sample]:
    """Yield a sample for each caption."""
    return (draw_sample(row, caption, shape, seed, features) for row, caption in enumerate(captions))


def write_samples(
    folder: Path,
    captions: Sequence[str],
    shape: SampleShape,
    *,
    seed: int,
    storage: StorageFormat,
    shard_size: int,
    features: DrawFeatures | None = None,
) -> Path:
    """Write the samples as a data set, without waiting for the disk, and return its folder."""
    info = DatasetInfo(
        storage=storage,
        shard_size=shard_size,
        rows=len(captions),
        manifest="manifest.parquet",
        manifest_hash="0" * 64,
        fields=describe_fields(feature_dim=shape.feature_dim, top_classes=shape.top_classes, attributes=False),
        feature_dim=shape.feature_dim,
        class_names=("background", *(f"class {number}" for number in range(1, shape.classes))),
        attribute_names=(),
        fingerprint=fingerprint_digest({"drawn": seed}),
        fingerprint_fields={"drawn": seed},
        software={},
    )
    samples = draw_samples(captions, shape, seed, features)
    records = []
    with mock.patch.object(os, "fsync", return_value=None):
        for shard in range(info.shards):
            start, stop = info.shard_rows(shard)
            with ShardWriter(folder, shard=shard, format=storage) as writer:
                for sample in islice(samples, stop - start):
                    writer.add(sample)
                records.append(writer.commit(rows=(start, stop), failures=[], fingerprint=info.fingerprint))
        digest, splits, totals = records_digest(records), sum_splits(records), sum_records(records)
        write_dataset(folder, replace(info, complete=True, records_sha256=digest, splits=splits, totals=totals))
    return folder
