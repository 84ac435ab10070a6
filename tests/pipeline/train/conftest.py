"""Tiny data sets to train on, written anew for each test."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from vilbert.extractors.regions import Regions
from vilbert.pipeline.shards.dataset import DatasetInfo, fingerprint_digest, sum_records, sum_splits, write_dataset
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.location.layout import StorageFormat
from vilbert.pipeline.shards.record import read_records, records_digest
from vilbert.pipeline.shards.sample import Sample, describe_fields
from vilbert.pipeline.shards.storage.writer import ShardWriter

from .emulated_gpu import build_emulator
from .tiny_runs import MODEL

CLASS_NAMES = ("background", "sky", "tree", "dog", "boat", "lamp", "chair")


@pytest.fixture(scope="session")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the emulated GPU, built once."""
    return build_emulator(tmp_path_factory.mktemp("emulator") / "built")


def two_captions(row: int) -> tuple[str, ...]:
    """Return the captions of a row where a test does not say otherwise: no two rows share one."""
    return (f"a photograph of scene {row}", f"scene {row} seen again")


def write_dataset_folder(
    folder: Path,
    *,
    samples: int,
    shard_size: int,
    storage: StorageFormat = "tar",
    feature_dim: int = 8,
    regions: int | Callable[[int], int] = 4,
    top_classes: int = 3,
    class_names: Sequence[str] = CLASS_NAMES,
    splits: Callable[[int], str] = lambda row: "train",
    captions: Callable[[int], Sequence[str]] = two_captions,
    image_id: Callable[[int], str] = lambda row: f"photo.{row:04}",
    draw: Callable[[int], Regions] | None = None,
    failed: Collection[int] = (),
    complete: bool = True,
    seed: int = 0,
    detector: str = "made by hand",
) -> Path:
    """Write a data set as `vilbert extract` would, dataset.json included, and return its folder.

    The same arguments give the same bytes. Row r's numbers are drawn from (seed, r).

    folder: is made where there is none. samples: rows of the manifest, of which those in `failed` give no sample.
    shard_size: rows a shard. feature_dim: D. regions: N, or N by row. top_classes: K. splits, captions, image_id: of a
    row, counted from 0. draw: gives a row's regions itself. complete: False leaves dataset.json as it is while an
    extraction is at work. detector: what the fingerprint says that the regions come from.
    """
    fingerprint_fields = {"extractor": {"detector": detector}, "format": 1}
    listed = repr([seed, *map(image_id, range(samples))])
    info = DatasetInfo(
        storage=storage,
        shard_size=shard_size,
        rows=samples,
        manifest="manifest.parquet",
        manifest_hash=hashlib.sha256(listed.encode()).hexdigest(),
        fields=describe_fields(feature_dim=feature_dim, top_classes=top_classes, attributes=False),
        feature_dim=feature_dim,
        class_names=tuple(class_names),
        attribute_names=(),
        fingerprint=fingerprint_digest(fingerprint_fields),
        fingerprint_fields=fingerprint_fields,
        software={"vilbert-pipeline": "0.1.0"},
    )
    with mock.patch.object(os, "fsync", return_value=None):  # waiting for the disk takes half of the time
        for shard in range(info.shards):
            start, stop = info.shard_rows(shard)
            with ShardWriter(folder, shard=shard, format=storage) as writer:
                for row in range(start, stop):
                    if row not in failed:
                        drawn = (
                            draw(row)
                            if draw
                            else draw_regions(
                                seed,
                                row,
                                regions if isinstance(regions, int) else regions(row),
                                feature_dim=feature_dim,
                                top_classes=top_classes,
                                classes=len(class_names),
                            )
                        )
                        meta = {"image_id": image_id(row), "captions": list(captions(row)), "split": splits(row)}
                        writer.add(Sample(key=f"row{row}", regions=drawn, meta=meta))
                failures = [
                    FailureRow(row=row, image_id=image_id(row), uri=f"{row}.jpg", reason="corrupt", detail="as made")
                    for row in range(start, stop)
                    if row in failed
                ]
                writer.commit(rows=(start, stop), failures=failures, fingerprint=info.fingerprint)
        if complete:
            records = read_records(folder).values()
            info = replace(
                info,
                complete=True,
                splits=sum_splits(records),
                totals=sum_records(records),
                records_sha256=records_digest(records),
            )
        write_dataset(folder, info)
    return folder


def draw_regions(seed: int, row: int, boxes: int, *, feature_dim: int, top_classes: int, classes: int) -> Regions:
    """Return valid regions of a 120 x 90 image drawn from (seed, row)."""
    draw = np.random.default_rng((seed, row))
    corners = np.sort(draw.uniform(0, 1, (boxes, 2, 2)), axis=1) * [120, 90]
    class_ids = np.argsort(draw.random((boxes, classes)), axis=1)[:, :top_classes]
    probabilities = -np.sort(-draw.dirichlet(np.ones(classes), boxes), axis=1)[:, :top_classes]
    return Regions(
        boxes=corners.reshape(boxes, 4).astype(np.float32),
        features=draw.standard_normal((boxes, feature_dim)).astype(np.float16),
        object_ids=draw.integers(1, classes, boxes).astype(np.uint16),
        object_scores=draw.uniform(0, 1, boxes).astype(np.float32),
        class_ids=class_ids.astype(np.uint16),
        class_probs=probabilities.reshape(boxes, top_classes).astype(np.float16),
        width=120,
        height=90,
    )


@pytest.fixture(scope="session")
def make_dataset() -> Callable[..., Path]:
    """Return `write_dataset_folder`: make_dataset(folder, samples=10, shard_size=4, …) -> folder."""
    return write_dataset_folder


@pytest.fixture(scope="module")
def no_curves() -> Iterator[None]:
    """Leave the drawing of curves out of reports, which takes longer than tiny runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vilbert.pipeline.pages.curves.svg", lambda entries: "<svg/>")
        yield


@pytest.fixture(scope="module")
def fifteen(tmp_path_factory: pytest.TempPathFactory, make_dataset: Callable[..., Path]) -> Path:
    """Return a folder with a data set of 15 samples, three of them held out, and a model's config beside it."""
    folder = tmp_path_factory.mktemp("data")
    make_dataset(folder / "a", samples=15, shard_size=5, splits=lambda row: "val" if row % 5 == 3 else "train")
    (folder / "model.json").write_text(json.dumps(MODEL))
    return folder
