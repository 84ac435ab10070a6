"""From tensors to `Regions`: labels, boxes, dtypes, and what becomes of values that are not finite."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from vilbert.extractors.assemble import assemble_regions
from vilbert.extractors.regions import Regions
from vilbert.extractors.selection import SelectionSettings

HEIGHT, WIDTH = 60, 100


def assemble(**changes: Any) -> Regions:
    """Three boxes apart, two classes; the second proposal is the surest, the third hangs over the image's edges."""
    arguments: dict[str, Any] = {
        "proposals_xyxy": torch.tensor([[0.0, 0.0, 10.0, 10.0], [20.0, 0.0, 30.0, 10.0], [90.0, 50.0, 110.0, 70.0]]),
        "probs": torch.tensor([[0.2, 0.5, 0.3], [0.0, 0.1, 0.9], [0.6, 0.4, 0.0]]),
        "features": torch.arange(12, dtype=torch.float32).reshape(3, 4),
        "regressed_xyxy": None,
        "height": HEIGHT,
        "width": WIDTH,
        "selection": SelectionSettings(boxes="1-3"),
        "top_classes": 2,
    }
    return assemble_regions(**{**arguments, **changes})


def test_every_array_follows_its_region() -> None:
    regions = assemble(
        selection=SelectionSettings(boxes="2", selection="topk"),
        attribute_probs=torch.tensor([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]]),
    )
    assert regions.boxes.tolist() == [[20, 0, 30, 10], [0, 0, 10, 10]]
    assert regions.features.tolist() == [[4, 5, 6, 7], [0, 1, 2, 3]]
    assert regions.object_ids.tolist() == [2, 1]
    np.testing.assert_array_equal(regions.object_scores, np.float32([0.9, 0.5]))
    assert regions.class_ids.tolist() == [[2, 1], [1, 2]]
    np.testing.assert_array_equal(regions.class_probs, np.float16([[0.9, 0.1], [0.5, 0.3]]))
    assert regions.attribute_ids is not None
    assert regions.attribute_ids.tolist() == [0, 1]
    np.testing.assert_array_equal(regions.attribute_scores, np.float32([0.8, 0.9]))
    assert (regions.width, regions.height) == (WIDTH, HEIGHT)


def test_background_may_be_the_most_probable_class_but_never_the_object() -> None:
    regions = assemble()
    assert regions.class_ids[2].tolist() == [0, 1]
    assert regions.object_ids[2] == 1


def test_an_object_keeps_its_name_where_its_class_was_suppressed() -> None:
    regions = assemble(
        proposals_xyxy=torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(3, 1),
        probs=torch.tensor([[0.0, 0.9, 0.1], [0.0, 0.6, 0.4], [1.0, 0.0, 0.0]]),
    )
    # the second survives as class 2 alone, with 0.4, and is still called what it most resembles
    assert regions.object_ids.tolist() == [1, 1]
    np.testing.assert_array_equal(regions.object_scores, np.float32([0.9, 0.6]))


def test_boxes_are_clipped_to_the_image() -> None:
    assert assemble().boxes[2].tolist() == [90, 50, WIDTH, HEIGHT]


def test_overlap_is_measured_on_clipped_boxes() -> None:
    beyond = torch.tensor([[90.0, 0.0, 100.0, 10.0], [90.0, 0.0, 400.0, 10.0], [0.0, 0.0, 5.0, 5.0]])
    assert len(assemble(proposals_xyxy=beyond, probs=torch.tensor([[0.0, 0.9, 0.1]] * 3))) == 2


def test_regressed_boxes_are_those_of_the_object_named() -> None:
    regressed = torch.stack(
        [torch.tensor([[c, r, c + 200.0, r + 5.0] for c in (1.0, 2.0)]) for r in (10.0, 20.0, 30.0)]
    )
    regressed[0, 0, 3] = torch.inf  # falls back to the proposal
    saved = SelectionSettings(boxes="1-3", saved_box="regressed")
    boxes = assemble(regressed_xyxy=regressed, selection=saved).boxes
    assert boxes.tolist() == [[0, 0, 10, 10], [2, 20, WIDTH, 25], [1, 30, WIDTH, 35]]
    with pytest.raises(ValueError, match="--saved-box proposal"):
        assemble(selection=saved)

    both = SelectionSettings(boxes="1-3", saved_box="both")
    regions = assemble(regressed_xyxy=regressed, selection=both)
    assert regions.boxes.tolist() == assemble().boxes.tolist()
    assert regions.object_boxes is not None
    assert regions.object_boxes.tolist() == boxes.tolist()
    given = assemble(regressed_xyxy=regressed, selection=both, given=True)
    assert given.object_boxes is not None
    assert given.boxes.tolist() == assemble(given=True).boxes.tolist()
    assert given.object_boxes.tolist() == boxes.tolist()


def test_given_boxes_are_all_kept_in_their_order() -> None:
    same_place = torch.tensor([[5.0, 5.0, 9.0, 9.0]]).repeat(3, 1)
    regions = assemble(given=True, proposals_xyxy=same_place)
    assert regions.features.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name in ("proposals_xyxy", "probs", "features") for value in (torch.nan, torch.inf)]
    + [("features", 1e6)],  # beyond float16
)
def test_what_is_not_finite_is_dropped_before_selection(name: str, value: float) -> None:
    arrays = {
        "proposals_xyxy": torch.tensor([[0.0, 0.0, 10.0, 10.0]]).repeat(2, 1),
        "probs": torch.tensor([[0.0, 0.9, 0.1], [0.0, 0.8, 0.2]]),
        "features": torch.tensor([[1.0], [2.0]]),
    }
    arrays[name][0, 0] = value
    regions = assemble(**arrays)
    assert regions.features.tolist() == [[2]]  # not suppressed by the broken one
    assert regions.object_scores.tolist() == pytest.approx([0.8])
    assert len(assemble(**arrays, given=True)) == 0  # given boxes: all or none
    arrays[name][1, 0] = value
    assert len(assemble(**arrays)) == 0


def test_no_proposals() -> None:
    regions = assemble(
        proposals_xyxy=torch.zeros(0, 4), probs=torch.zeros(0, 3), features=torch.zeros(0, 4), top_classes=20
    )
    assert regions.features.shape == (0, 4)
    assert regions.class_ids.shape == (0, 3)  # there are but 3


def test_input_of_reduced_precision_is_taken() -> None:
    regions = assemble(features=torch.full((3, 4), 2.5, dtype=torch.bfloat16))
    assert regions.features.dtype == np.float16
    assert (regions.features == 2.5).all()
