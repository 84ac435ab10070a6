"""Causes that are seen in the numbers: each made on purpose from what a real detector found, and named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from vilbert.extractors.regions import Regions
from vilbert.pipeline.rebuild.compare.detector import RunningDetector
from vilbert.pipeline.rebuild.compare.statistics import Moments
from vilbert.pipeline.shards.sample import Sample

from .conftest import Look, Write, causes, shapes_settings, with_regions


def shifted(regions: Regions) -> dict[str, Any]:
    return {"boxes": regions.boxes + np.array([0, 0, 1, 1], np.float32)}


def resized(regions: Regions) -> dict[str, Any]:
    return {"boxes": regions.boxes * np.float32(600 / 225)}


def fractions(regions: Regions) -> dict[str, Any]:
    return {"boxes": regions.boxes / np.array([regions.width, regions.height] * 2, np.float32)}


def xywh(regions: Regions) -> dict[str, Any]:
    boxes = regions.boxes.copy()
    boxes[:, 2:] -= boxes[:, :2]
    return {"boxes": boxes}


def yxyx(regions: Regions) -> dict[str, Any]:
    return {"boxes": regions.boxes[:, [1, 0, 3, 2]]}


def whole(regions: Regions) -> dict[str, Any]:
    return {"boxes": np.rint(regions.boxes)}


def shuffled(regions: Regions) -> dict[str, Any]:
    return {"features": np.roll(regions.features, 1, axis=0)}


def reordered(regions: Regions) -> dict[str, Any]:
    return {name: array[::-1] for name, array in regions.arrays().items()}


def objects_from_zero(regions: Regions) -> dict[str, Any]:
    return {"object_ids": regions.object_ids - np.uint16(1)}


@pytest.mark.parametrize(
    ("change", "cause", "said", "status"),
    [
        (shifted, "boxes-shifted", "x2 +1, y2 +1", 1),
        (resized, "boxes-scaled", "by about 2.67", 1),
        (fractions, "boxes-scaled", "fractions of the width and height", 1),
        (xywh, "boxes-xywh", "x, y, width, height", 1),
        (yxyx, "boxes-yxyx", "y1, x1, y2, x2", 1),
        (whole, "boxes-rounded", "those of B", 0),
        (shuffled, "features-shuffled", "", 1),
        (reordered, "rows-reordered", "", 0),
        (objects_from_zero, "object-ids-shifted", "those of A -1", 1),
    ],
)
def test_what_was_done_to_boxes_and_rows_is_named(
    change: Callable[[Regions], dict[str, Any]],
    cause: str,
    said: str,
    status: int,
    found: list[Sample],
    write: Write,
    look: Look,
) -> None:
    a = write("a", found)
    b = write("b", with_regions(found, change), class_names=())
    result, document = look(a, b)
    assert causes(document) == [cause]
    assert said in document["causes"][0]["detail"]
    assert document["causes"][0]["images"] == len(found)
    assert result == status


def test_regressed_boxes_of_the_same_detector_are_named(
    extract: Callable[..., list[Sample]], found: list[Sample], write: Write, look: Look
) -> None:
    regressed = extract(RunningDetector(shapes_settings(saved_box="regressed"), 4).extractor)
    status, document = look(write("a", found), write("b", regressed))
    assert causes(document) == ["boxes-regressed"]
    assert status == 1


def test_features_of_another_image_are_named_with_both_ids(found: list[Sample], write: Write, look: Look) -> None:
    joined_wrongly = [
        replace(sample, regions=replace(sample.regions, features=other.regions.features))
        for sample, other in zip(found, [*found[1:4], found[0], *found[4:]], strict=True)
    ]
    status, document = look(write("a", found), write("b", joined_wrongly))
    (cause,) = document["causes"]
    assert cause["cause"] == "features-of-another-image"
    assert (cause["images"], cause["of"]) == (4, 6)
    assert ["scene 1", "scene 0"] in cause["figures"]["pairs"]
    assert status == 1


def exact(samples: list[Sample], scale: float) -> list[Sample]:
    """Return samples with float32 features that float16 does not hold."""
    return with_regions(samples, lambda it: {"features": it.features.astype(np.float32) * np.float32(scale)})


def test_rounding_to_float16_and_to_bfloat16_is_harmless(found: list[Sample], write: Write, look: Look) -> None:
    a = exact(found, 1.2345)
    half = with_regions(a, lambda it: {"features": it.features.astype(np.float16)})
    brain = with_regions(a, lambda it: {"features": torch.from_numpy(it.features).bfloat16().float().numpy()})
    name = write("a", a)
    for b, cause in ((half, "rounded-float16"), (brain, "rounded-bfloat16")):
        status, document = look(name, write(cause, b))
        assert causes(document) == [cause]
        assert "of B" in document["causes"][0]["detail"]
        assert (status, document["verdict"]) == (0, "equal")
        assert "of A" in look(str(write(f"{cause} first", b)), name)[1]["causes"][0]["detail"]


@pytest.mark.filterwarnings("ignore:overflow")
def test_overflow_of_float16_is_named(found: list[Sample], write: Write, look: Look) -> None:
    a = exact(found, 65504 / max(float(it.regions.features.max()) for it in found) * 1.5)
    b = with_regions(a, lambda it: {"features": it.features.astype(np.float16)})
    status, document = look(write("a", a), write("b", b))
    assert "float16-overflow" in causes(document)
    assert document["features"]["not_finite"] == {
        "a": 0,
        "b": sum(int(np.isinf(it.regions.features).any(axis=1).sum()) for it in b),
    }
    assert status == 1


def test_a_bfloat16_forward_pass_is_named(
    extract: Callable[..., list[Sample]], found: list[Sample], write: Write, look: Look
) -> None:
    b = extract(RunningDetector(shapes_settings(precision="bf16"), 4).extractor, count=2)
    _, document = look(write("a", found), write("b", b), diagnose=False)
    assert "computed-in-bfloat16" in causes(document)
    assert document["images"]["only_in_a"] == len(found) - 2


def test_features_of_another_width_are_named(found: list[Sample], write: Write, look: Look) -> None:
    narrow = with_regions(found, lambda it: {"features": it.features[:, :100]})
    status, document = look(write("a", found), write("b", narrow))
    assert causes(document) == ["other-dimension"]
    assert document["causes"][0]["detail"] == "256 channels in A, 100 in B"
    assert not document["bounds"][1]["holds"]
    assert status == 1


def test_moments_of_a_stream_are_those_of_all_rows() -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(5, 2, (1000, 3)).astype(np.float32)
    moments = Moments()
    for part in np.array_split(rows, 7):
        moments.add(part)
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(moments.std(), rows.std(axis=0), rtol=1e-6)
