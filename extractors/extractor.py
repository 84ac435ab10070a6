"""The one interface of all detectors, its settings, and the function that builds a detector from them."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from vilbert.extractors.regions import Regions
from vilbert.extractors.selection import SelectionSettings

_OPTIONS_OF = {
    "config_file": ("detectron2",),
    "opts": ("detectron2",),
    "torchvision_model": ("torchvision",),
}
"""Options that mean something for some detectors alone."""


class ExtractorError(Exception):
    """A detector that cannot be built or run as asked; says what, where and what to do."""


@dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """Which Faster R-CNN, with which weights, at which precision."""

    detector: Literal["torchvision", "detectron2", "shapes"] = "torchvision"
    """torchvision: COCO classes, comes with the install. detectron2: any stock Faster R-CNN config file, installed by
    you. shapes: the small detector of the shapes data set, weights included."""
    weights: str | None = None
    """A weights file (.pkl, .pth or .safetensors), or `random` for a trial; by default the detector's own."""
    seed: int = 0
    """Seed of `--weights random`."""
    torchvision_model: Literal[
        "resnet50_fpn", "resnet50_fpn_v2", "mobilenet_v3_large_fpn", "mobilenet_v3_large_320_fpn"
    ] = "resnet50_fpn"
    """Which of torchvision's fasterrcnn_* models."""
    config_file: str | None = None
    """detectron2: the model's YAML config file."""
    opts: tuple[str, ...] = ()
    """detectron2: KEY VALUE pairs over the config file, as detectron2's own tools take them."""
    feature_layer: Literal["fc6", "fc7"] = "fc7"
    """FPN box heads: the fully connected layer whose output, after its ReLU, is the feature. C4 heads have one feature:
    the mean of res5."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast of the convolutions; RoI coordinates, softmax and NMS stay float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU where there is one."""
    top_classes: int = 20
    """How many of the most probable classes to keep of each region, the soft labels of pre-training."""

    def __post_init__(self) -> None:
        for name in ("weights", "config_file"):
            if isinstance(path := getattr(self, name), os.PathLike):
                object.__setattr__(self, name, os.fspath(path))
        opts: object = self.opts
        if isinstance(opts, str):
            raise ValueError(f"--opts {opts!r}: give a sequence of KEY and VALUE texts, not one text")
        if self.top_classes < 1:
            raise ValueError(f"--top-classes {self.top_classes}: keep at least 1 class")
        if len(self.opts) % 2:
            raise ValueError(f"--opts {' '.join(self.opts)}: give KEY VALUE pairs")
        if self.detector == "detectron2" and self.config_file is None:
            raise ValueError("--detector detectron2 needs --config-file, the model's YAML file")
        for option, of in _OPTIONS_OF.items():
            default = type(self).__dataclass_fields__[option].default
            if self.detector not in of and getattr(self, option) != default:
                raise ValueError(
                    f"--{option.replace('_', '-')} is an option of --detector {' or '.join(of)}, and has no effect "
                    f"with --detector {self.detector}; leave it out, or name that detector"
                )


class Extractor(Protocol):
    """Images in, regions out. An image's regions do not depend on the images beside it."""

    @property
    def feature_dim(self) -> int:
        """D, the channels of a region's feature."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class id; 0 is the background."""

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """Names by attribute id; empty where the detector knows no attributes."""

    def fingerprint(self) -> dict[str, object]:
        """Return, as JSON values, all that the regions depend on: weights' sha256, config, preprocessing, selection."""

    def resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) to which an image of this size is resized."""

    def extract(
        self,
        images: Sequence[NDArray[np.uint8]],
        given_boxes: Sequence[NDArray[np.float32] | None],
    ) -> list[Regions]:
        """Return the regions of each image.

        images: RGB [H, W, 3] each, all of one `resized_shape` (ValueError otherwise).
        given_boxes: for each image None, or [N, 4] xyxy pixels which then take the place of proposals and selection.
        """


@dataclass(frozen=True, kw_only=True)
class ExtractorSettings:
    """Everything that decides what regions an image gets."""

    detector: DetectorSettings = field(default_factory=DetectorSettings)
    selection: SelectionSettings = field(default_factory=SelectionSettings)


def build_extractor(settings: ExtractorSettings) -> Extractor:
    """Build the detector that the settings name.

    Raises ExtractorError where it is not installed or its weights are not there.
    """
    build: Callable[[DetectorSettings, SelectionSettings], Extractor]
    match settings.detector.detector:
        case "torchvision":
            from vilbert.extractors.torchvision_frcnn import build
        case "detectron2":
            from vilbert.extractors.detectron2_frcnn import build
        case "shapes":
            from vilbert.extractors.shapes_frcnn import build
    return build(settings.detector, settings.selection)
