"""Causes that only the detector shows: features made with each on purpose, and named by running the detector again."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.resnet import Bottleneck, ResNet
from torchvision.ops import MultiScaleRoIAlign

from vilbert.extractors.detectors.torchvision_frcnn import TorchvisionExtractor
from vilbert.extractors.detectors.torchvision_models import randomise
from vilbert.extractors.extractor import DetectorSettings
from vilbert.extractors.preprocessing import moved_strides
from vilbert.extractors.selection import SelectionSettings
from vilbert.pipeline.rebuild.compare.detector import RunningDetector
from vilbert.pipeline.shards.sample import Sample

from ....extractors import tiny_detectron2
from .conftest import SIZES, Look, Write, causes, pixels_of, shapes_settings, with_regions

COUNT = 2
"""Photographs that are extracted."""


@contextlib.contextmanager
def with_transform(detector: RunningDetector, **values: Any) -> Iterator[None]:
    """Give the model of a torchvision detector other preprocessing for the length of the block."""
    transform = detector.extractor.network.transform
    own = {name: getattr(transform, name) for name in values}
    try:
        for name, value in values.items():
            setattr(transform, name, value)
        yield
    finally:
        for name, value in own.items():
            setattr(transform, name, value)


def antialiased(pixels: np.ndarray) -> np.ndarray:
    """Return an image as PIL resizes it to the detector's size."""
    height, width = pixels.shape[:2]
    scale = min(224 / min(height, width), 240 / max(height, width))
    return np.asarray(
        Image.fromarray(pixels).resize((int(width * scale), int(height * scale)), Image.Resampling.BICUBIC)
    )


@pytest.mark.parametrize(
    ("cause", "said", "change", "transform"),
    [
        ("channels-swapped", "red and blue swapped", lambda pixels: pixels[:, :, ::-1], {}),
        ("wrong-mean", "no means subtracted", np.asarray, {"image_mean": [0.0, 0.0, 0.0]}),
        ("wrong-std", "PIXEL_STD 255", np.asarray, {"image_std": [1.0, 1.0, 1.0]}),
        ("other-resize", "short side 320", np.asarray, {"min_size": (320,), "max_size": 640}),
    ],
)
def test_preprocessing_of_other_code_is_named(
    cause: str,
    said: str,
    change: Callable[[np.ndarray], np.ndarray],
    transform: dict[str, Any],
    detector: RunningDetector,
    extract: Callable[..., list[Sample]],
    found: list[Sample],
    write: Write,
    look: Look,
) -> None:
    with with_transform(detector, **transform):
        other = extract(detector.extractor, change, COUNT)
    a, b = write("a", found[:COUNT], detector.facts), write("b", other)
    status, document = look(a, b)
    assert causes(document) == [cause]
    assert said in document["causes"][0]["detail"]
    assert document["diagnosis"]["suspect"] == "B"
    assert status == 1


def test_another_layer_is_named_whichever_side_it_is(
    detector: RunningDetector, extract: Callable[..., list[Sample]], found: list[Sample], write: Write, look: Look
) -> None:
    other = write("b", extract(RunningDetector(shapes_settings(feature_layer="fc6"), 4).extractor, count=COUNT))
    own = write("a", found[:COUNT], detector.facts)
    for a, b, suspect in ((own, other, "B"), (other, own, "A")):
        status, document = look(a, b)
        assert causes(document) == ["another-layer"]
        assert f"layer fc6 reproduces {suspect}" in document["causes"][0]["detail"]
        assert status == 1


def test_another_filter_is_named(
    detector: RunningDetector, extract: Callable[..., list[Sample]], found: list[Sample], write: Write, look: Look
) -> None:
    resized = extract(detector.extractor, antialiased, 2)
    stored = [it.regions for it in found[:2]]
    back = [
        (np.array([one.width / it.regions.width, one.height / it.regions.height] * 2, np.float32), one)
        for it, one in zip(resized, stored, strict=True)
    ]
    scales = iter(back)

    def in_stored_pixels(regions: Any) -> dict[str, Any]:
        scale, one = next(scales)
        return {"boxes": regions.boxes * scale, "width": one.width, "height": one.height}

    b = write("b", with_regions(resized, in_stored_pixels))
    _, document = look(write("a", found[:2], detector.facts), b, min_cosine=0.9999)
    assert causes(document) == ["other-resize"]
    assert "bicubic (PIL)" in document["causes"][0]["detail"]


def test_padding_to_the_largest_of_a_batch_is_named(
    detector: RunningDetector, extract: Callable[..., list[Sample]], found: list[Sample], write: Write, look: Look
) -> None:
    batch = [detector.extractor.resized_shape(height, width) for width, height in SIZES[:3]]
    largest = tuple(max(sides) for sides in zip(*batch, strict=True))
    other = []
    for number in range(3):
        changed = replace(detector.extractor.preprocessing, pad_to=largest)
        (regions,) = detector.extractor.with_preprocessing(changed).extract([pixels_of(number)], [None])
        other.append(regions)
    b = [replace(sample, regions=regions) for sample, regions in zip(found, other, strict=False)]
    status, document = look(write("a", found[:3], detector.facts), write("b", b), min_cosine=0.99999)
    assert causes(document) == ["batch-padding"]
    assert status == 1


def test_a_detector_that_selects_other_regions_is_told_from_other_features(
    detector: RunningDetector, extract: Callable[..., list[Sample]], found: list[Sample], write: Write, look: Look
) -> None:
    more = extract(RunningDetector(shapes_settings(boxes="20"), 4).extractor, count=COUNT)
    status, document = look(write("a", found[:COUNT], detector.facts), write("b", more))
    assert causes(document) == ["other-selection"]
    assert status == 1


def test_without_a_detector_the_causes_that_cannot_be_told_apart_are_listed(
    extract: Callable[..., list[Sample]], detector: RunningDetector, found: list[Sample], write: Write, look: Look
) -> None:
    other = extract(detector.extractor, lambda pixels: pixels[:, :, ::-1], COUNT)
    status, document = look(write("a", found[:COUNT]), write("b", other))
    assert causes(document) == []
    assert "does not record its detector" in document["diagnosis"]["reason"]
    assert status == 1


def build(settings: DetectorSettings, selection: SelectionSettings) -> TorchvisionExtractor:
    """A small detector on a ResNet with bottleneck blocks and random weights."""

    class Backbone(torch.nn.Module):
        out_channels = 256

        def __init__(self) -> None:
            super().__init__()
            self.body = ResNet(Bottleneck, [1, 2, 1, 1], width_per_group=8)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            body = self.body
            return body.layer3(body.layer2(body.layer1(body.maxpool(body.relu(body.bn1(body.conv1(images)))))))[:, :256]

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = FasterRCNN(
            Backbone(),
            min_size=112,
            max_size=160,
            rpn_anchor_generator=AnchorGenerator(((12, 24),), ((1.0,),)),
            rpn_pre_nms_top_n_test=100,
            rpn_post_nms_top_n_test=40,
            box_roi_pool=MultiScaleRoIAlign(["0"], 5, sampling_ratio=2),
            box_head=TwoMLPHead(256 * 25, 64),
            box_predictor=FastRCNNPredictor(64, 8),
        )
    randomise(model, settings.seed)
    return TorchvisionExtractor(
        model=model,
        class_names=[f"class {number}" for number in range(8)],
        facts={"extractor": "small resnet", "weights_sha256": "0" * 64},
        detector=settings,
        selection=selection,
    )


def test_the_stride_in_the_other_convolution_is_named(
    extract: Callable[..., list[Sample]], write: Write, look: Look, tmp_path: Path
) -> None:
    settings = {"detector": f"{__name__}:build", "boxes": "12", "top_classes": 8}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(settings))
    extractor = build(DetectorSettings(device="cpu", top_classes=8), SelectionSettings(boxes="12"))
    with moved_strides(extractor.network) as blocks:
        assert blocks == 3
        b = write("b", extract(extractor, count=2), class_names=extractor.class_names)
    status, document = look(b, str(tmp_path / "small.yaml"))
    assert causes(document) == ["stride-in-1x1"]
    assert document["diagnosis"]["suspect"] == "A"
    assert status == 1


class TestDetectron2:
    """The same with detectron2, whose own settings make the difference."""

    pytestmark = tiny_detectron2.MARKS

    @pytest.mark.parametrize(
        ("cause", "opts"),
        [
            ("stride-in-1x1", ["MODEL.RESNETS.STRIDE_IN_1X1", "False"]),
            ("wrong-std", ["MODEL.PIXEL_STD", "[57.375, 57.12, 58.395]"]),
            ("wrong-mean", ["MODEL.PIXEL_MEAN", "[0.0, 0.0, 0.0]"]),
            ("channels-swapped", ["INPUT.FORMAT", "RGB"]),
        ],
    )
    def test_settings_of_detectron2_are_named(
        self,
        cause: str,
        opts: list[str],
        extract: Callable[..., list[Sample]],
        write: Write,
        look: Look,
        tmp_path: Path,
    ) -> None:
        tiny_detectron2.write_configs(tmp_path)
        selection = SelectionSettings(boxes="12")
        weights = str(tiny_detectron2.weights_file(tmp_path, "C4"))
        other = tiny_detectron2.make(tmp_path, "C4", selection, opts=tuple(opts), weights=weights)
        b = write("b", extract(other, count=COUNT), class_names=other.class_names)
        settings = {"detector": "detectron2", "config-file": str(tmp_path / "C4.yaml"), "weights": weights, "boxes": 12}
        (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings))
        status, document = look(str(tmp_path / "settings.yaml"), b)
        assert causes(document) == [cause]
        assert status == 1
