"""Detectors that can be run with other preprocessing: the same weights, another input."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.models.resnet import Bottleneck

from vilbert.extractors.extractor import DetectorSettings, ExtractorSettings, build_extractor
from vilbert.extractors.preprocessing import Adjustable, moved_strides

from . import tiny_detectron2
from .detectors.visual_genome.random_checkpoints import read_golden
from .detectors.visual_genome.test_golden import convert_and_build

BOXES = np.array([[5, 5, 60, 50], [20, 8, 75, 40]], np.float32)


def build(name: str, folder: Path) -> Any:
    if name == "milvlg":
        return convert_and_build(name, folder, *read_golden(name))
    if name == "detectron2":
        return tiny_detectron2.make(tiny_detectron2.write_configs(folder), "C4")
    return build_extractor(ExtractorSettings(detector=DetectorSettings(detector="shapes", device="cpu")))


@pytest.mark.parametrize("name", ["shapes", "milvlg", pytest.param("detectron2", marks=tiny_detectron2.MARKS)])
def test_other_preprocessing_is_another_input_of_the_same_network(name: str, tmp_path: Path) -> None:
    extractor = build(name, tmp_path)
    assert isinstance(extractor, Adjustable)
    own = extractor.preprocessing
    picture = tiny_detectron2.picture(0, 60, 80) // 2

    def features(pixels: np.ndarray, **changes: Any) -> np.ndarray:
        changed = extractor.with_preprocessing(replace(own, **changes))
        (regions,) = changed.extract([pixels], [BOXES])
        assert changed.resized_shape(60, 80) == extractor.resized_shape(60, 80) or "short_side" in changes
        return np.asarray(regions.features, np.float64)

    (regions,) = extractor.extract([picture], [BOXES])
    np.testing.assert_array_equal(features(picture), regions.features)
    # Brighter pixels with means that are as much higher: the same input.
    brighter = tuple(mean + 40 for mean in own.mean)
    np.testing.assert_allclose(features(picture + np.uint8(40), mean=brighter), features(picture), rtol=0.02, atol=0.02)
    for changes in (
        {"mean": brighter},
        {"std": tuple(2 * value for value in own.std)},
        {"short_side": own.short_side // 2},
        {"pad_to": tuple(side + 64 for side in extractor.resized_shape(60, 80))},
    ):
        assert not np.array_equal(features(picture, **changes), features(picture)), changes
    np.testing.assert_array_equal(features(picture), regions.features)


def test_strides_are_moved_and_put_back() -> None:
    block = Bottleneck(16, 4, stride=2, downsample=torch.nn.Conv2d(16, 16, 1, stride=2))
    plain = Bottleneck(16, 4)
    network = torch.nn.Sequential(block, plain)
    with moved_strides(network) as blocks:
        assert blocks == 1
        assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))
    assert (block.conv1.stride, block.conv2.stride) == ((1, 1), (2, 2))
