"""Photographs of several sizes, the regions that a detector finds in them, and data sets made of such regions."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from PIL import Image

from vilbert.extractors.extractor import DetectorSettings, ExtractorSettings
from vilbert.extractors.selection import SelectionSettings
from vilbert.pipeline.rebuild.compare.command import compare
from vilbert.pipeline.rebuild.compare.detector import RunningDetector
from vilbert.pipeline.rebuild.compare.settings import CompareSettings
from vilbert.pipeline.shapes.render import render
from vilbert.pipeline.shapes.scene import make_scene
from vilbert.pipeline.shards.dataset import DatasetInfo, fingerprint_digest, sum_records, sum_splits, write_dataset
from vilbert.pipeline.shards.keys import sample_key
from vilbert.pipeline.shards.record import read_records, records_digest
from vilbert.pipeline.shards.sample import Sample, describe_fields
from vilbert.pipeline.shards.storage.writer import ShardWriter

SIZES = ((300, 225), (225, 300), (300, 225), (280, 280), (225, 300), (300, 225))
"""Width and height of the photographs: a batch of three has several shapes."""
BOXES = 12

Write = Callable[..., str]
Look = Callable[..., tuple[int, dict[str, Any]]]


@cache
def pixels_of(number: int) -> np.ndarray:
    """Return a drawn scene as RGB pixels [H, W, 3]."""
    return np.asarray(render(make_scene(3, number)).convert("RGB").resize(SIZES[number], Image.Resampling.LANCZOS))


@cache
def shapes_settings(**changes: Any) -> ExtractorSettings:
    """Return the settings of the shapes detector, on the CPU."""
    selection = {name: changes.pop(name) for name in ("saved_box", "boxes") if name in changes}
    return ExtractorSettings(
        detector=DetectorSettings(detector="shapes", device="cpu", **changes),
        selection=SelectionSettings(**{"boxes": str(BOXES), **selection}),
    )


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The photographs as PNG files."""
    folder = tmp_path_factory.mktemp("photographs")
    paths = [folder / f"scene-{number}.png" for number in range(len(SIZES))]
    for number, path in enumerate(paths):
        Image.fromarray(pixels_of(number)).save(path)
    return paths


@pytest.fixture(scope="session")
def detector() -> RunningDetector:
    """The shapes detector, with its trained weights."""
    return RunningDetector(shapes_settings(), batch_size=4)


@pytest.fixture(scope="session")
def extract(photographs: list[Path]) -> Callable[..., list[Sample]]:
    """A function that returns what an extractor finds in the photographs, one at a time, as samples."""

    def run(
        extractor: Any, change: Callable[[np.ndarray], np.ndarray] = np.asarray, count: int | None = None
    ) -> list[Sample]:
        samples = []
        for number, path in enumerate(photographs[:count]):
            (regions,) = extractor.extract([np.ascontiguousarray(change(pixels_of(number)))], [None])
            image_id = f"scene {number}"
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            meta = {"image_id": image_id, "uri": str(path), "sha256": digest, "captions": [], "split": "train"}
            samples.append(Sample(key=sample_key(image_id), regions=regions, meta=meta))
        return samples

    return run


@pytest.fixture(scope="session")
def found(detector: RunningDetector, extract: Callable[..., list[Sample]]) -> list[Sample]:
    """What the detector finds."""
    return extract(detector.extractor)


@pytest.fixture
def write(tmp_path: Path, detector: RunningDetector) -> Write:
    """A function that writes samples as a data set and returns its folder.

    facts: what it records of its extractor; without, it records nothing that can be run again.
    """

    def make(name: str, samples: Sequence[Sample], facts: dict[str, Any] | None = None, **changes: Any) -> str:
        folder = tmp_path / name
        regions = samples[0].regions
        fields = {"extractor": facts or {"detector": "unknown code"}, "format": 1}
        info = DatasetInfo(
            storage="tar",
            shard_size=4,
            rows=len(samples),
            manifest="manifest.parquet",
            manifest_hash="0" * 64,
            fields=describe_fields(
                feature_dim=regions.features.shape[1],
                top_classes=0 if regions.class_ids is None else regions.class_ids.shape[1],
                attributes=regions.attribute_ids is not None,
                objects=regions.object_ids is not None,
                feature_dtype=regions.features.dtype.name,
            ),
            feature_dim=regions.features.shape[1],
            class_names=changes.get("class_names", detector.extractor.class_names),
            attribute_names=detector.extractor.attribute_names,
            fingerprint=fingerprint_digest(fields),
            fingerprint_fields=fields,
            software={"vilbert-pipeline": "0"},
        )
        with mock.patch.object(os, "fsync", return_value=None):  # waiting for the disk takes half of the time
            for shard in range(info.shards):
                start, stop = info.shard_rows(shard)
                with ShardWriter(folder, shard=shard, format="tar") as writer:
                    for sample in samples[start:stop]:
                        writer.add(sample)
                    writer.commit(rows=(start, stop), failures=[], fingerprint=info.fingerprint)
            records = read_records(folder).values()
            done = {"complete": True, "splits": sum_splits(records), "totals": sum_records(records)}
            write_dataset(folder, replace(info, **done, records_sha256=records_digest(records)))
        return str(folder)

    return make


@pytest.fixture
def look(capsys: pytest.CaptureFixture[str]) -> Look:
    """A function that compares two sides and returns the exit status and the JSON document."""

    def run(a: str, b: str, **options: Any) -> tuple[int, dict[str, Any]]:
        capsys.readouterr()
        status = compare(CompareSettings(a=a, b=b, json=True, device="cpu", **options))
        return status, json.loads(capsys.readouterr().out)

    return run


def with_regions(samples: Sequence[Sample], change: Callable[..., Any]) -> list[Sample]:
    """Return samples whose regions have other arrays; change: from regions to arrays by name."""
    return [replace(sample, regions=replace(sample.regions, **change(sample.regions))) for sample in samples]


def causes(document: dict[str, Any]) -> list[str]:
    """Return the names of the causes of a comparison."""
    return [cause["cause"] for cause in document["causes"]]
