"""Causes that a detector of transformers shows: its folder with another preprocessor_config.json is named."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from vilbert.extractors.extractor import DetectorSettings, ExtractorSettings, build_extractor
from vilbert.extractors.selection import SelectionSettings
from vilbert.pipeline.shards.sample import Sample

from ....extractors.detectors.transformers.tiny_models import save_model
from .conftest import Look, Write, causes

COUNT = 2
"""Photographs that are extracted."""
RED_AND_BLUE = (2, 1, 0)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A function that returns the folder of a tiny model."""
    base = tmp_path_factory.mktemp("models")
    return lambda name: base / name if (base / name).exists() else save_model(name, base / name)


def build(folder: Path) -> Any:
    detector = DetectorSettings(detector="transformers", weights=folder, device="cpu")
    return build_extractor(ExtractorSettings(detector=detector, selection=SelectionSettings(boxes="8")))


def with_processor(folder: Path, copy: Path, **values: object) -> Path:
    """Return a copy of a model's folder whose image processor has other settings."""
    shutil.copytree(folder, copy)
    path = copy / "preprocessor_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
    return copy


CASES: list[tuple[str, str, str, dict[str, object]]] = [
    ("detr", "channels-swapped", "red and blue swapped", {}),
    ("detr", "wrong-mean", "no means subtracted", {"image_mean": [0.0, 0.0, 0.0]}),
    ("yolos", "wrong-std", "PIXEL_STD 127.5", {"image_std": [0.5, 0.5, 0.5]}),
    ("detr", "wrong-normalisation", "divided by 255, not normalised", {"do_normalize": False}),
    ("rt_detr_v2", "wrong-normalisation", "of ImageNet", {"do_normalize": True}),
    ("rt_detr_v2", "other-resize", "a square of 320 pixels", {"size": {"height": 320, "width": 320}}),
]


@pytest.mark.parametrize(("model", "cause", "said", "processor"), CASES, ids=[f"{it[0]}-{it[2]}" for it in CASES])
def test_another_image_processor_is_named(
    model: str,
    cause: str,
    said: str,
    processor: dict[str, object],
    models: Callable[[str], Path],
    extract: Callable[..., list[Sample]],
    write: Write,
    look: Look,
    tmp_path: Path,
) -> None:
    folder = models(model)
    if cause == "other-resize":  # sizes of a published detector: those of the tiny one are too far from any
        folder = with_processor(folder, tmp_path / "own", size={"height": 512, "width": 512})
    other = build(with_processor(folder, tmp_path / "other", **processor))
    swap = cause == "channels-swapped"
    samples = extract(other, lambda pixels: pixels[:, :, RED_AND_BLUE] if swap else pixels, COUNT)
    b = write("b", samples, class_names=other.class_names)
    settings = {"detector": "transformers", "weights": str(folder), "boxes": 8}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(settings))
    status, document = look(str(tmp_path / "a.yaml"), b)
    assert causes(document) == [cause]
    assert said in document["causes"][0]["detail"]
    assert document["diagnosis"]["suspect"] == "B"
    assert status == 1


def test_the_same_image_processor_is_no_cause(
    models: Callable[[str], Path], extract: Callable[..., list[Sample]], write: Write, look: Look, tmp_path: Path
) -> None:
    folder = models("detr")
    own = build(folder)
    b = write("b", extract(own, np.asarray, COUNT), class_names=own.class_names)
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"detector": "transformers", "weights": str(folder), "boxes": 8}))
    status, document = look(str(tmp_path / "a.yaml"), b)
    assert (status, causes(document)) == (0, [])
