"""The regions of a batch are those of its images alone."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from vilbert.extractors import batch_selection
from vilbert.extractors.assemble import assemble_regions
from vilbert.extractors.assemble_batch import BatchOutputs, assemble_batch, rows_of
from vilbert.extractors.regions import Regions
from vilbert.extractors.selection import SelectionSettings, surviving_classes

from .test_selection import crowded

SHAPES = ((400, 500), (300, 600))
PROPOSALS, CLASSES = 40, 6
UNUSABLE = 3
"""A proposal with a feature that is not finite."""


def detected() -> dict[str, Tensor]:
    """Return what a detector says of two images; the last proposals of the second one are not there."""
    draw = torch.Generator().manual_seed(0)
    parts = [crowded(seed=seed, proposals=PROPOSALS, classes=CLASSES, sharpness=6.0) for seed in range(2)]
    boxes, probs = (torch.stack([torch.as_tensor(part[place]) for part in parts]) for place in range(2))
    features = torch.randn(2, PROPOSALS, 8, generator=draw)
    features[0, UNUSABLE, 5] = float("inf")
    is_there = torch.ones(2, PROPOSALS, dtype=torch.bool)
    is_there[1, 30:] = False
    refined = boxes[:, :, None] + torch.randn(2, PROPOSALS, CLASSES, 4, generator=draw)
    refined[0, 0, :, 1] = float("nan")
    attributes = torch.rand(2, PROPOSALS, 5, generator=draw)
    return {
        "proposals_xyxy": boxes, "probs": probs, "features": features, "is_there": is_there, "refined": refined,
        "attributes": attributes,
    }  # fmt: skip


def together(found: dict[str, Tensor], selection: SelectionSettings, *, surviving: bool) -> list[Regions | None]:
    outputs = BatchOutputs(
        **{name: found[name] for name in ("proposals_xyxy", "is_there", "probs", "features")},
        shapes=SHAPES,
        refine=lambda keep, classes: rows_of(found["refined"], keep, classes),
        attributes=lambda keep, classes: rows_of(found["attributes"], keep),
        is_named_by_surviving_class=surviving,
    )
    return assemble_batch(outputs, selection, top_classes=4)


def alone(found: dict[str, Tensor], image: int, selection: SelectionSettings, *, surviving: bool) -> Regions:
    there = found["is_there"][image]
    boxes, probs = found["proposals_xyxy"][image][there], found["probs"][image][there]
    usable = found["features"][image][there].isfinite().all(dim=1)
    labels = torch.zeros(len(boxes), dtype=torch.int64)
    if surviving:
        limits = torch.tensor([SHAPES[image][1], SHAPES[image][0]] * 2)
        clipped = torch.minimum(boxes.clamp(min=0), limits)
        labels[usable] = surviving_classes(clipped[usable], probs[usable], selection)
    return assemble_regions(
        proposals_xyxy=boxes,
        probs=probs,
        features=found["features"][image][there],
        regressed_xyxy=found["refined"][image][there],
        height=SHAPES[image][0],
        width=SHAPES[image][1],
        selection=selection,
        top_classes=4,
        attribute_probs=found["attributes"][image][there],
        labels=labels if surviving else None,
    )


def assert_same(one: Regions | None, other: Regions) -> None:
    assert one is not None
    for field in fields(Regions):
        mine, its = getattr(one, field.name), getattr(other, field.name)
        if its is None:
            assert mine is None
        else:
            np.testing.assert_array_equal(mine, its, err_msg=field.name)
            assert getattr(mine, "dtype", None) == getattr(its, "dtype", None)


@pytest.mark.parametrize("surviving", [False, True])
@pytest.mark.parametrize("saved_box", ["proposal", "regressed", "both"])
@pytest.mark.parametrize("rule", ["butd", "topk", "vinvl"])
def test_each_image_has_the_regions_that_it_has_alone(rule: Any, saved_box: Any, surviving: bool) -> None:
    found = detected()
    selection = SelectionSettings(boxes="5-12", selection=rule, saved_box=saved_box, confidence=0.3)
    regions = together(found, selection, surviving=surviving)
    for image, of_batch in enumerate(regions):
        expected = alone(found, image, selection, surviving=surviving)
        assert len(expected) >= 5
        assert_same(of_batch, expected)


def test_an_image_beyond_the_bounds_is_left_to_the_caller(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_selection, "PAIRS", 2)
    regions = together(detected(), SelectionSettings(boxes="5-12", selection="topk"), surviving=False)
    assert regions == [None, None]


def test_a_batch_without_proposals_has_images_without_regions() -> None:
    found = {name: values[:, :0] for name, values in detected().items()}
    regions = together(found, SelectionSettings(boxes="5-12"), surviving=False)
    assert [len(it) for it in regions if it is not None] == [0, 0]
