"""The detectors `vit` and `grid`: facts that are known without importing torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Interval

from vilbert.extractors.detectors.registry import DetectorSpec

Size = Annotated[int, Interval(ge=32, le=4096)]
Cells = Annotated[int, Interval(ge=1, le=64)]


@dataclass(frozen=True)
class VitSettings:
    """Settings of `--detector vit`, as --opts KEY VALUE."""

    size: Size | None = None
    """Side in pixels of the square to which an image is resized; default: the size the encoder was trained at."""
    cells: Cells | None = None
    """Regions per side, each the mean of its patches; default: one region per patch."""


@dataclass(frozen=True)
class GridSettings:
    """Settings of `--detector grid`, as --opts KEY VALUE."""

    size: Size = 448
    """Side in pixels of the square to which an image is resized."""
    cells: Cells = 7
    """Regions per side, each the mean of its part of the feature map."""
    backbone: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"] = "resnet50"
    """Without --weights FOLDER_OR_HUB_NAME: the network of torchvision, trained on ImageNet."""


IGNORED = ("feature_layer", "top_classes")
"""Options of detectors that cells, which have no head and no classes, do not take."""


def recorded(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a fingerprint says of settings: `opts` alone, which is the same word there."""
    return dict.fromkeys(IGNORED)


VIT = DetectorSpec(
    build="vilbert.extractors.encoders.cells:build_vit",
    summary="patches of DINOv2, DINOv3, SigLIP, CLIP, ViT as regions, by --weights FOLDER_OR_HUB_NAME.",
    required=("weights",),
    settings=VitSettings,
    ignores=IGNORED,
    needs_files=True,
    recorded=recorded,
)
GRID = DetectorSpec(
    build="vilbert.extractors.encoders.cells:build_grid",
    summary="cells of a ResNet's feature map as regions, of torchvision or by --weights FOLDER_OR_HUB_NAME.",
    settings=GridSettings,
    ignores=IGNORED,
    recorded=recorded,
)
