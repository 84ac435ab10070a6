"""The measures are 1 of a detector that knows the truth, and fall with each kind of mistake."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from vilbert.extractors.regions import Regions
from vilbert.pipeline.shapes.measure_detector import measure
from vilbert.pipeline.shapes.scene import CLASS_NAMES, COLOURS, SIZES, TEXTURES, Scene, make_scene

SCENES = [make_scene(5, index) for index in range(12)]
NAMES = tuple(f"{size} {colour} {texture}" for size in SIZES for colour in COLOURS for texture in TEXTURES)


class Oracle:
    """Answers the i-th call with the objects of scene i, changed by a function."""

    attribute_names = NAMES

    def __init__(self, change: Callable[[Regions], Regions]) -> None:
        self.answers = iter([change(truth(scene)) for scene in SCENES])

    def extract(self, images: Sequence[NDArray[np.uint8]], given_boxes: Sequence[None]) -> list[Regions]:
        answer = next(self.answers)
        assert images[0].shape == (answer.height, answer.width, 3)
        return [answer]


def truth(scene: Scene) -> Regions:
    count = len(scene.objects)
    attributes = [NAMES.index(f"{item.size} {item.colour} {item.texture}") for item in scene.objects]
    return Regions(
        boxes=np.array([item.box_xyxy for item in scene.objects], dtype=np.float32),
        features=np.zeros((count, 4), dtype=np.float16),
        object_ids=np.array([item.class_id for item in scene.objects], dtype=np.uint16),
        object_scores=np.full(count, 0.9, dtype=np.float32),
        class_ids=np.ones((count, 1), dtype=np.uint16),
        class_probs=np.ones((count, 1), dtype=np.float16),
        width=scene.width,
        height=scene.height,
        attribute_ids=np.array(attributes, dtype=np.uint16),
        attribute_scores=np.ones(count, dtype=np.float32),
    )


def nothing(regions: Regions) -> Regions:
    return replace(regions, **{name: array[:0] for name, array in regions.arrays().items()})


def test_the_truth_scores_one() -> None:
    measures = measure(Oracle(lambda regions: regions), SCENES)
    assert measures.map50 == measures.map50_95 == pytest.approx(1.0)
    assert measures.recall == measures.attributes == 1.0


def test_nothing_found_scores_nothing() -> None:
    measures = measure(Oracle(nothing), SCENES)
    assert (measures.map50, measures.map50_95, measures.recall, measures.attributes) == (0, 0, 0, 0)


def test_wrong_classes_are_not_found() -> None:
    measures = measure(Oracle(lambda r: replace(r, object_ids=r.object_ids % len(CLASS_NAMES) + np.uint16(1))), SCENES)
    assert measures.map50 < 0.2


def test_boxes_a_third_too_far_right_fail_strict_thresholds_only() -> None:
    def shift(regions: Regions) -> Regions:
        widths = regions.boxes[:, 2:3] - regions.boxes[:, :1]
        return replace(regions, boxes=regions.boxes + widths * np.float32([0.3, 0, 0.3, 0]))

    measures = measure(Oracle(shift), SCENES)  # an intersection over union of 0.7 / 1.3 = 0.54
    assert measures.map50 == pytest.approx(1.0)
    assert measures.map50_95 == pytest.approx(0.1)


def test_wrong_attributes_lower_their_own_measure_alone() -> None:
    wrong = measure(
        Oracle(lambda r: replace(r, attribute_ids=(r.attribute_ids + np.uint16(1)) % np.uint16(len(NAMES)))), SCENES
    )
    assert wrong.map50 == pytest.approx(1.0)
    assert wrong.attributes == 0
