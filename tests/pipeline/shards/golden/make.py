"""Write the golden data sets: `PYTHONPATH=. python tests/pipeline/shards/golden/make.py`, from the repository's root.

They change with the format number only; FORMAT.md says how.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from vilbert.extractors.regions import Regions
from vilbert.pipeline.shards.columns.add import add_column
from vilbert.pipeline.shards.columns.values_file import ValuesFile
from vilbert.pipeline.shards.dataset import DatasetInfo, fingerprint_digest, sum_records, write_dataset
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.keys import sample_key
from vilbert.pipeline.shards.location.folder import LocalFolder
from vilbert.pipeline.shards.record import records_digest
from vilbert.pipeline.shards.sample import Sample, describe_fields
from vilbert.pipeline.shards.storage.writer import ShardWriter

GoldenName = Literal["tar", "lmdb", "tar-2", "lmdb-2", "tar-3", "lmdb-3"]
NAMES: tuple[GoldenName, ...] = get_args(GoldenName)
"""Folders: the storage, and the number of the format where it is not 1."""
SMALL = {"tar-3": "int8", "lmdb-3": "uint8"}
"""dtype of the features of format 3; uint8 holds float8."""
FEATURE_DIM = 512
FINGERPRINT_FIELDS = {"decode": {"max_side": 4096}, "extractor": {"weights": "golden"}, "format": 1}


def golden_samples() -> list[Sample]:
    """Return two samples whose every number is exact in its dtype."""
    ramp = np.arange(2 * FEATURE_DIM, dtype=np.float16).reshape(2, FEATURE_DIM)
    two = Regions(
        boxes=np.array([[0, 0, 320, 240], [10.5, 20.25, 100, 200]], np.float32),
        features=ramp / np.float16(256),
        object_ids=np.array([2, 1], np.uint16),
        object_scores=np.array([0.875, 0.5], np.float32),
        class_ids=np.array([[2, 0, 1], [1, 2, 0]], np.uint16),
        class_probs=np.array([[0.875, 0.0625, 0.03125], [0.5, 0.25, 0.125]], np.float16),
        attribute_ids=np.array([1, 0], np.uint16),
        attribute_scores=np.array([0.75, 0.25], np.float32),
        width=320,
        height=240,
    )
    arrays = {name: array[1:] for name, array in two.arrays().items()}
    one = Regions(**arrays, width=101, height=201)
    first = {"captions": ["a cat on a mat", "un chat"], "image_id": "000000391895", "split": "train", "uri": "cat.jpg"}
    second = {"captions": ["naïve 猫"], "image_id": "val/dog.v2.png", "split": "val", "uri": "val/dog.v2.png"}
    return [Sample(key=sample_key(str(meta["image_id"])), regions=regions, meta=meta)
            for meta, regions in ((first, two), (second, one))]  # fmt: skip


def plain_samples() -> list[Sample]:
    """Return the same samples as format 2 allows them: float32 features, no objects, classes and attributes."""
    return [
        replace(
            sample,
            regions=Regions(
                boxes=sample.regions.boxes,
                features=sample.regions.features.astype(np.float32),
                width=sample.regions.width,
                height=sample.regions.height,
            ),
        )
        for sample in golden_samples()
    ]


def small_samples(dtype: str) -> list[Sample]:
    """Return the samples of format 1 as format 3 allows them: features in one byte a value."""
    return [sample.with_features(dtype) for sample in golden_samples()]


def write_golden(directory: Path, name: GoldenName) -> None:
    """Write a data set of one shard. Row 1 failed, rows 0 and 2 are samples; in format 2, row 3 was dropped."""
    storage: Literal["tar", "lmdb"] = "lmdb" if name.startswith("lmdb") else "tar"
    plain = name.endswith("-2")
    failure = FailureRow(row=1, image_id="broken", uri="broken.jpg", reason="truncated", detail="ends after 3 bytes")
    dtype = SMALL.get(name)
    facts = {**FINGERPRINT_FIELDS, "format": 2 if plain else 3 if dtype else 1}
    fingerprint = fingerprint_digest(facts)
    rows = 4 if plain else 3
    with ShardWriter(directory, shard=0, format=storage) as writer:
        for sample in plain_samples() if plain else small_samples(dtype) if dtype else golden_samples():
            writer.add(sample)
        record = writer.commit(
            rows=(0, rows), failures=[failure], fingerprint=fingerprint, dropped={"split": 1} if plain else None
        )
    info = DatasetInfo(
        storage=storage,
        shard_size=1000,
        rows=rows,
        manifest="m.parquet",
        manifest_hash="0" * 64,
        fields=describe_fields(
            feature_dim=FEATURE_DIM,
            top_classes=0 if plain else 3,
            objects=not plain,
            attributes=not plain,
            feature_dtype="float32" if plain else dtype or "float16",
        ),
        feature_dim=FEATURE_DIM,
        class_names=() if plain else ("__background__", "cat", "dog"),
        attribute_names=() if plain else ("black", "white"),
        fingerprint=fingerprint,
        fingerprint_fields=facts,
        software={"vilbert-pipeline": "0.1.0"},
        complete=True,
        splits={"train": 1, "val": 1},
        totals=sum_records([record]),
        records_sha256=records_digest([record]),
    )
    write_dataset(directory, info)


def write_golden_column(directory: Path, base: Path) -> None:
    """Write a column of two numbers per region for a copy of the golden tar, and move it to `directory`."""
    with tempfile.TemporaryDirectory() as home:
        data = Path(shutil.copytree(base, Path(home) / "data"))
        arrays = [np.array([[0.5, -1], [2, 0.25]], np.float32), np.array([[3, 4]], np.float32)]
        values = ValuesFile(
            member="npy",
            places={str(sample.meta["image_id"]): number for number, sample in enumerate(golden_samples())},
            read=arrays.__getitem__,
            facts={"kind": "npy", "sha256": "1" * 64},
        )
        add_column(LocalFolder(data), "dino", values, missing="error")
        column = data / "columns/dino"
        shutil.rmtree(column / ".nv-meta")  # follows from the rest; its bytes are those of a release of SQLite
        shutil.copytree(column, directory)


if __name__ == "__main__":
    HOME = Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent)
    for name in NAMES:
        write_golden(HOME / name, name)
    write_golden_column(HOME / "column", HOME / "tar")
