"""A small valid data set, tar or LMDB, with failures, photographs and its manifest."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vilbert.extractors.regions import Regions
from vilbert.manifests.manifest import Manifest, ManifestWriter
from vilbert.manifests.record import ImageRecord
from vilbert.pipeline.shards.checks.findings import Finding
from vilbert.pipeline.shards.checks.verify import examine
from vilbert.pipeline.shards.dataset import DatasetInfo, fingerprint_digest, sum_records, sum_splits, write_dataset
from vilbert.pipeline.shards.failures import FailureRow
from vilbert.pipeline.shards.keys import sample_key
from vilbert.pipeline.shards.location.layout import StorageFormat, data_path, record_path
from vilbert.pipeline.shards.record import read_records, records_digest
from vilbert.pipeline.shards.sample import Sample, describe_fields
from vilbert.pipeline.shards.storage.writer import ShardWriter

CLASS_NAMES = ("background", "sky", "tree", "dog", "boat", "lamp", "chair")
ATTRIBUTE_NAMES = ("red", "old", "wooden")
FEATURE_DIM = 8
TOP_CLASSES = 3
WIDTH, HEIGHT = 120, 90


@dataclass(frozen=True)
class SmallDataset:
    """Where a made data set lies, and what it was made from."""

    directory: Path
    manifest: Path
    info: DatasetInfo

    def findings(self, *, deep: bool = False, **options: Any) -> tuple[Finding, ...]:
        """Return what `vilbert verify` finds wrong."""
        return examine(self.directory, deep=deep, **options).findings

    def codes(self, *, deep: bool = False, **options: Any) -> set[str]:
        """Return the codes of what `vilbert verify` finds wrong."""
        return {finding.code for finding in self.findings(deep=deep, **options)}

    def data_file(self, shard: int = 1) -> Path:
        """Return the path of a shard's samples."""
        return data_path(self.directory, shard, self.info.storage)

    def record_file(self, shard: int = 1) -> Path:
        """Return the path of a shard's record."""
        return record_path(self.directory, shard)

    def rewrite_record(self, shard: int = 1, **changes: Any) -> None:
        """Forge a record, and dataset.json to go with it."""
        record = replace(read_records(self.directory)[shard], **changes)
        self.record_file(shard).write_bytes(record.to_json())
        write_dataset(self.directory, completed(self.info, self.directory))


def random_regions(seed: int, *, boxes: int = 4, width: int = WIDTH, height: int = HEIGHT) -> Regions:
    """Return valid regions of a seeded draw."""
    rng = np.random.default_rng(seed)
    corners = np.sort(rng.uniform(0, 1, (boxes, 2, 2)), axis=1) * [width, height]
    class_ids = np.stack([rng.permutation(len(CLASS_NAMES))[:TOP_CLASSES] for _ in range(boxes)])
    probabilities = -np.sort(-rng.dirichlet(np.ones(len(CLASS_NAMES)), boxes), axis=1)[:, :TOP_CLASSES]
    return Regions(
        boxes=corners.reshape(boxes, 4).astype(np.float32),
        features=rng.standard_normal((boxes, FEATURE_DIM)).astype(np.float16),
        object_ids=rng.integers(1, len(CLASS_NAMES), boxes).astype(np.uint16),
        object_scores=rng.uniform(0, 1, boxes).astype(np.float32),
        class_ids=class_ids.astype(np.uint16),
        class_probs=probabilities.astype(np.float16),
        attribute_ids=rng.integers(0, len(ATTRIBUTE_NAMES), boxes).astype(np.uint16),
        attribute_scores=rng.uniform(0, 1, boxes).astype(np.float32),
        width=width,
        height=height,
    )


def write_small_dataset(
    folder: Path,
    *,
    storage: StorageFormat = "tar",
    rows: int = 10,
    shard_size: int = 4,
    failed: Mapping[int, str] | None = None,
    change: Callable[[int, Sample], Sample] = lambda row, sample: sample,
    image_id: Callable[[int], str] = lambda row: f"photo.{row:03}",
) -> SmallDataset:
    """Write photographs, manifest and data set under `folder`.

    failed: reasons of the rows that give no sample. change: what to store in place of a row's valid sample.
    """
    failed = {2: "corrupt", 5: "missing_file", 6: "corrupt"} if failed is None else failed
    records = [_record(folder, row, image_id(row)) for row in range(rows)]
    with ManifestWriter(folder / "manifest.parquet") as writer:
        writer.write(records)
        manifest = writer.commit()
    info = _unfinished_info(manifest, storage, shard_size)
    directory = folder / "data"
    for shard in range(info.shards):
        start, stop = info.shard_rows(shard)
        failures = []
        with ShardWriter(directory, shard=shard, format=storage) as shard_writer:
            for row, record in enumerate(records[start:stop], start):
                if row in failed:
                    failures.append(
                        FailureRow(
                            row=row, image_id=record.image_id, uri=record.uri, reason=failed[row], detail="as made"
                        )
                    )
                else:
                    shard_writer.add(change(row, _sample(record, row)))
            shard_writer.commit(rows=(start, stop), failures=failures, fingerprint=info.fingerprint)
    info = completed(info, directory)
    write_dataset(directory, info)
    return SmallDataset(directory=directory, manifest=manifest.path, info=info)


def completed(info: DatasetInfo, directory: Path) -> DatasetInfo:
    """Return `info` with what the records in `directory` add up to."""
    records = read_records(directory).values()
    return replace(
        info,
        complete=True,
        splits=sum_splits(records),
        totals=sum_records(records),
        records_sha256=records_digest(records),
    )


def _record(folder: Path, row: int, image_id: str) -> ImageRecord:
    path = folder / "images" / f"{row}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.new("RGB", (WIDTH, HEIGHT), (row * 20 % 256, 128, 64)).save(buffer, "PNG")
    path.write_bytes(buffer.getvalue())
    captions = tuple(f"caption {number} of photograph {row}" for number in range(row % 3))
    split = "val" if row % 4 == 3 else "train"
    return ImageRecord(image_id=image_id, uri=str(path), captions=captions, split=split)


def _sample(record: ImageRecord, row: int) -> Sample:
    meta = {
        "image_id": record.image_id,
        "captions": list(record.captions),
        "split": record.split,
        "uri": record.uri,
        "sha256": hashlib.sha256(Path(record.uri).read_bytes()).hexdigest(),
        "mode": "RGB",
        "transposed": False,
    }
    return Sample(key=sample_key(record.image_id), regions=random_regions(row), meta=meta)


def _unfinished_info(manifest: Manifest, storage: StorageFormat, shard_size: int) -> DatasetInfo:
    fields = {"extractor": {"detector": "made by hand"}, "format": 1}
    return DatasetInfo(
        storage=storage,
        shard_size=shard_size,
        rows=manifest.rows,
        manifest=str(manifest.path),
        manifest_hash=manifest.hash,
        fields=describe_fields(feature_dim=FEATURE_DIM, top_classes=TOP_CLASSES, attributes=True),
        feature_dim=FEATURE_DIM,
        class_names=CLASS_NAMES,
        attribute_names=ATTRIBUTE_NAMES,
        fingerprint=fingerprint_digest(fields),
        fingerprint_fields=fields,
        software={"vilbert-pipeline": "0.1.0"},
    )


@pytest.fixture
def _without_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write test data without waiting for the disk, which takes half of the time."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def make_dataset(tmp_path: Path, _without_fsync: None) -> Callable[..., SmallDataset]:
    """Return `write_small_dataset` bound to a folder of the test's own."""
    return lambda **options: write_small_dataset(tmp_path, **options)


@pytest.fixture(params=["tar", "lmdb"])
def dataset(request: pytest.FixtureRequest, tmp_path: Path, _without_fsync: None) -> SmallDataset:
    """A small valid data set in either storage: 10 rows, 3 of them failed, in 3 shards."""
    return write_small_dataset(tmp_path, storage=request.param)
