import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torchvision.ops import box_iou

from pipeline.tasks.refer_boxes import iou, is_right, soft_targets

corner = st.floats(-50, 1000, width=32)
side = st.floats(0, 600, width=32)
boxes = st.builds(lambda x, y, w, h: (x, y, x + w, y + h), corner, corner, side, side)
many = st.lists(boxes, max_size=8)


def literal(box: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Return the overlap as ViLBERT's formula says it, number by number."""
    iw = min(box[2], other[2]) - max(box[0], other[0]) + 1
    ih = min(box[3], other[3]) - max(box[1], other[1]) + 1
    both = max(iw, 0) * max(ih, 0)
    areas = [(x2 - x1 + 1) * (y2 - y1 + 1) for x1, y1, x2, y2 in (box, other)]
    return both / (areas[0] + areas[1] - both)


@given(many, boxes)
def test_overlap_is_the_formula_of_the_reference(regions: list[tuple[float, ...]], box: tuple[float, ...]) -> None:
    assert iou(regions, box) == pytest.approx([literal(region, box) for region in regions], rel=1e-12, abs=1e-15)


@given(many, boxes)
def test_overlap_is_torchvisions_of_boxes_a_pixel_larger(
    regions: list[tuple[float, ...]], box: tuple[float, ...]
) -> None:
    larger = torch.tensor([0.0, 0.0, 1.0, 1.0], dtype=torch.float64)
    ours = torch.tensor(regions, dtype=torch.float64).reshape(-1, 4) + larger
    expected = box_iou(ours, torch.tensor([box], dtype=torch.float64) + larger)[:, 0]
    np.testing.assert_allclose(iou(regions, box), expected.numpy(), rtol=1e-9, atol=1e-12)


@given(boxes)
def test_a_box_overlaps_itself_wholly(box: tuple[float, ...]) -> None:
    assert iou([box], box) == pytest.approx([1.0])


def test_the_last_pixel_belongs_to_a_box() -> None:
    assert iou([(0, 0, 9, 9)], (0, 0, 9, 4)).tolist() == [0.5]


def test_boxes_that_share_a_corner_pixel_overlap() -> None:
    assert iou([(0, 0, 1, 1)], (1, 1, 2, 2)).tolist() == [1 / 7]


def test_distant_boxes_do_not_overlap_though_both_sides_are_negative() -> None:
    assert iou([(0, 0, 1, 1)], (50, 50, 60, 60)).tolist() == [0.0]


def test_float16_boxes_are_reckoned_in_float64() -> None:
    regions = np.array([[0, 0, 1000, 1000]], dtype=np.float16)  # the area is beyond float16
    assert iou(regions, (0, 0, 1000, 1000)).tolist() == [1.0]
    assert iou(regions, (0, 0, 1000, 1000)).dtype == np.float64


def thirds() -> NDArray[np.float32]:
    """Boxes that overlap (0, 0, 9, 9) wholly, by 6/10, by exactly 1/2 and by 4/10."""
    return np.array([[0, 0, 9, 9], [0, 0, 9, 5], [0, 0, 9, 4], [0, 0, 9, 3]], dtype=np.float32)


def test_targets_are_overlaps_from_one_half_on() -> None:
    targets = soft_targets(thirds(), (0, 0, 9, 9))
    assert targets.tolist() == np.array([1.0, 0.6, 0.5, 0.0], dtype=np.float32).tolist()
    assert targets.dtype == np.float32


def test_right_is_above_one_half() -> None:
    assert is_right(thirds(), (0, 0, 9, 9)).tolist() == [True, True, False, False]


def test_no_boxes_give_no_overlaps() -> None:
    assert soft_targets(np.zeros((0, 4), dtype=np.float32), (0, 0, 1, 1)).shape == (0,)
