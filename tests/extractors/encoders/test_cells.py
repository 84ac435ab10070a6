"""Patches and grid cells as regions, and features pooled at given boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from vilbert.extractors.encoders.cells import CellsExtractor, cell_boxes, to_float16
from vilbert.extractors.extractor import DetectorSettings, ExtractorError, ExtractorSettings, build_extractor
from vilbert.extractors.selection import SelectionSettings

from .tiny_encoders import save_encoder


class Gradient:
    """A map of two channels: the mean x and the mean y of a cell, in cells."""

    size = 64
    feature_dim = 2
    device = torch.device("cpu")

    def describe(self) -> dict[str, object]:
        return {"size": 64}

    def __call__(self, images: Any) -> torch.Tensor:
        centres = torch.arange(8) + 0.5
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        return torch.stack([x, y]).expand(len(images), -1, -1, -1)


def image(height: int, width: int) -> NDArray[np.uint8]:
    return np.zeros((height, width, 3), np.uint8)


def test_cells_have_their_features_and_boxes_in_pixels_of_the_image() -> None:
    extractor = CellsExtractor(Gradient(), name="grid", cells=None, opts=())
    wide, high = extractor.extract([image(40, 80), image(80, 16)], [None, None])
    assert len(wide) == len(high) == 64
    for regions, shape in ((wide, (40, 80)), (high, (80, 16))):
        centres = (regions.boxes[:, :2] + regions.boxes[:, 2:]) / 2
        assert centres / [shape[1] / 8, shape[0] / 8] == pytest.approx(regions.features.astype(float), abs=1e-5)
        assert (regions.boxes[-1] == [shape[1] * 7 / 8, shape[0] * 7 / 8, shape[1], shape[0]]).all()
    assert (wide.object_ids, wide.class_ids, extractor.class_names, extractor.soft_labels) == (None, None, (), False)


def test_fewer_cells_are_means_of_patches() -> None:
    (regions,) = CellsExtractor(Gradient(), name="vit", cells=2, opts=()).extract([image(64, 64)], [None])
    assert regions.features.tolist() == [[2, 2], [6, 2], [2, 6], [6, 6]]
    assert regions.boxes[1].tolist() == [32, 0, 64, 32]


def test_given_boxes_are_pooled_where_they_are() -> None:
    boxes = np.array([[10, 10, 30, 30], [0, 0, 80, 40], [40, 10, 41, 11], [70, 0, 500, 40]], np.float32)
    found = CellsExtractor(Gradient(), name="vit", cells=None, opts=()).extract([image(40, 80)] * 2, [boxes, None])
    assert found[0].boxes.tolist() == [*boxes[:3].tolist(), [70, 0, 80, 40]]
    x, y = found[0].features.astype(float).T
    assert x[:3] == pytest.approx([2, 4, 4.05], abs=0.02)  # 20 / 10 pixels per cell, ...
    assert y[:3] == pytest.approx([4, 4, 2.1], abs=0.02)
    assert len(found[1]) == 64


def test_cell_boxes_tile_any_image() -> None:
    for height, width in ((1, 1), (3, 1000), (480, 641)):
        boxes = cell_boxes(7, height, width).double()
        assert float(((boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])).sum()) == pytest.approx(height * width)


def test_features_beyond_float16_fail_the_image() -> None:
    with pytest.raises(ValueError, match="not finite in float16"):
        to_float16(torch.tensor([[7e4]]))


def test_vit_and_grid_are_built_from_settings(tmp_path: Path) -> None:
    folder = save_encoder("vit", tmp_path)
    built = {}
    for name, changes in (
        ("vit", {"weights": folder}),
        ("vit", {"weights": folder, "opts": ("cells", "2")}),
        ("grid", {"weights": "random", "opts": ("backbone", "resnet18", "size", "64", "cells", "2")}),
        ("grid", {"weights": folder, "opts": ("size", "64", "cells", "2")}),
    ):
        settings: dict[str, Any] = {"detector": name, "device": "cpu", **changes}
        extractor = build_extractor(ExtractorSettings(detector=DetectorSettings(**settings)))
        (regions,) = extractor.extract([image(50, 70)], [None])
        built[str(extractor.fingerprint())] = (len(regions), extractor.feature_dim)
    assert list(built.values()) == [(16, 32), (4, 32), (4, 512), (4, 32)]


@pytest.mark.parametrize(
    ("opts", "said"),
    [
        (("cells", "0"), "cells 0"),
        (("sise", "64"), "no such setting; there are size, cells"),
        (("size", "1e9"), "size 1e9"),
    ],
)
def test_a_setting_that_is_none_is_refused(opts: tuple[str, ...], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        DetectorSettings(detector="vit", weights="a", opts=opts)


def test_a_selection_of_boxes_is_refused() -> None:
    settings = ExtractorSettings(
        detector=DetectorSettings(detector="grid", weights="random", device="cpu"),
        selection=SelectionSettings(boxes="100"),
    )
    with pytest.raises(ExtractorError, match="keeps all cells"):
        build_extractor(settings)
