"""Reduced precision against float32, on a trained detector: features of given boxes, kept boxes, and what flips.

Products are computed in float32 and rounded (`RoundedProducts`): without instructions for bfloat16, a CPU takes 15
times as long.
"""

from __future__ import annotations

from functools import cache
from typing import Literal

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from benchmarks.rounded_products import RoundedProducts
from vilbert.extractors.detectors.torchvision_frcnn import TorchvisionExtractor
from vilbert.extractors.extractor import DetectorSettings, ExtractorSettings, build_extractor
from vilbert.extractors.regions import Regions
from vilbert.extractors.selection import SelectionSettings
from vilbert.pipeline.shapes.render import paint
from vilbert.pipeline.shapes.scene import make_scene

SHAPE = (224, 224, 3)
IMAGES = 20
Precision = Literal["fp32", "bf16", "fp16"]


@cache
def images() -> list[np.ndarray]:
    """Scenes of one shape."""
    scenes = (paint(make_scene(0, number)) for number in range(1000))
    return [scene for scene, _ in zip((it for it in scenes if it.shape == SHAPE), range(IMAGES), strict=False)]


@cache
def extractor(precision: Precision) -> TorchvisionExtractor:
    detector = DetectorSettings(detector="shapes", device="cpu", precision=precision)
    built = build_extractor(
        ExtractorSettings(detector=detector, selection=SelectionSettings(boxes="2-20", confidence=0.5))
    )
    assert isinstance(built, TorchvisionExtractor)
    return built


@cache
def exact() -> list[Regions]:
    return extractor("fp32").extract(images(), [None] * IMAGES)


def cosines(left: Regions, right: Regions) -> np.ndarray:
    a, b = left.features.astype(np.float64), right.features.astype(np.float64)
    cosine: np.ndarray = (a * b).sum(axis=1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    return cosine


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_features_of_given_boxes_keep_their_direction(precision: Precision) -> None:
    with RoundedProducts():
        given = extractor(precision).extract(images(), [regions.boxes for regions in exact()])
    least = [cosines(*pair).min() for pair in zip(exact(), given, strict=True)]
    assert min(least) >= 0.999
    assert min(least) < 1  # it is another precision


@pytest.mark.parametrize(("precision", "least"), [("bf16", 0.97), ("fp16", 0.99)])
def test_kept_boxes_are_those_of_float32(precision: Precision, least: float) -> None:
    """bfloat16 exchanges boxes of one object that are equally probable but for its rounding: two of a hundred."""
    with RoundedProducts():
        found = extractor(precision).extract(images(), [None] * IMAGES)
    total = same = objects = 0
    for one, other in zip(exact(), found, strict=True):
        distances = np.abs(one.boxes[:, None] - other.boxes[None]).max(axis=2)  # pixels
        total += max(len(one), len(other))  # an additional box is a difference too
        same += int((distances.min(axis=1, initial=np.inf) <= 2).sum())
        overlap = box_iou(torch.from_numpy(one.boxes), torch.from_numpy(other.boxes)).numpy()
        objects += int(((overlap > 0.5) & (one.object_ids[:, None] == other.object_ids)).any(axis=1).sum())
    assert total >= 80
    assert same >= least * total
    assert objects >= 0.99 * total


def test_the_proposals_logits_are_float32() -> None:
    """In bfloat16, which has 8 bits, most of the 3,136 logits of an image would be equal to another."""
    reduced = extractor("bf16")
    with RoundedProducts(), torch.inference_mode():
        batch = reduced._batch(images()[:1], SHAPE[:2])
        (logits,), (deltas,) = reduced._anchor_outputs(list(reduced._feature_maps(batch).values()))
    for values in (logits, deltas):
        assert values.dtype == torch.float32
        assert len(values.unique()) > 0.9 * values.numel()


def test_rounded_products_are_those_of_the_cpu() -> None:
    with torch.inference_mode():
        batch = extractor("bf16")._batch(images()[:1], SHAPE[:2])
        (expected,) = extractor("bf16")._feature_maps(batch).values()
        with RoundedProducts():
            (rounded,) = extractor("bf16")._feature_maps(batch).values()
    torch.testing.assert_close(rounded, expected, rtol=0.05, atol=0.05)
    assert (rounded == expected).float().mean() > 0.7  # sums in another order round to another neighbour
