"""Proposals of a batch are those of its images alone; pooling level by level is torchvision's."""

from __future__ import annotations

import pytest
import torch
from torchvision.ops import MultiScaleRoIAlign, nms
from torchvision.ops.poolers import LevelMapper

from vilbert.extractors.batch_proposals import pool_levels, suppress_batch


def boxes_of(count: int, side: float, draw: torch.Generator) -> torch.Tensor:
    low = torch.rand(count, 2, generator=draw) * side * 0.8
    return torch.cat([low, low + 1 + torch.rand(count, 2, generator=draw) * side * 0.2], dim=1)


@pytest.mark.parametrize("count", [5, 50, 200])
def test_suppression_keeps_what_each_image_keeps_alone(count: int) -> None:
    draw = torch.Generator().manual_seed(count)
    boxes = torch.stack([boxes_of(60, 40, draw) for _ in range(3)])
    scores = torch.rand(3, 60, generator=draw)
    is_valid = torch.rand(3, 60, generator=draw) < 0.8
    is_valid[2] = False
    rows, is_there = suppress_batch(boxes, scores, is_valid, 0.3, count)
    assert rows.shape == is_there.shape == (3, min(count, 60))
    for image in range(3):
        candidates = is_valid[image].nonzero()[:, 0]
        expected = candidates[nms(boxes[image, candidates], scores[image, candidates], 0.3)][:count]
        assert rows[image][is_there[image]].tolist() == expected.tolist()
        assert is_there[image].sum() == len(expected)


def test_pooling_is_that_of_the_multi_scale_pooler() -> None:
    draw = torch.Generator().manual_seed(0)
    maps = {str(level): torch.randn(2, 4, 64 >> level, 96 >> level, generator=draw) for level in range(3)}
    boxes = [boxes_of(30, side, draw) for side in (380.0, 250.0)]
    boxes[1][:2] = torch.tensor([[0.0, 0.0, 380.0, 250.0], [0.0, 0.0, 150.0, 150.0]])
    whole = MultiScaleRoIAlign(list(maps), 7, 2)
    expected = whole(maps, boxes, [(256, 384)] * 2)
    rois = torch.cat(
        [torch.cat([torch.full((30, 1), float(row)), of_image], dim=1) for row, of_image in enumerate(boxes)]
    )
    level_of = LevelMapper(2, 4)(boxes)
    assert set(level_of.tolist()) == {0, 1, 2}
    pooled, order = pool_levels(list(maps.values()), [1 / 4, 1 / 8, 1 / 16], rois, level_of, (7, 7), 2)
    torch.testing.assert_close(pooled[order], expected)
