"""The one interface of all detectors, its settings, and the function that builds a detector from them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import field
from typing import Annotated, Literal, Protocol

import numpy as np
import tyro
from annotated_types import Interval
from numpy.typing import NDArray
from pydantic import BeforeValidator

from vilbert.extractors.detectors.registry import add_encoder, check_options, detector_help, find_detector
from vilbert.extractors.regions import Regions
from vilbert.extractors.selection import SelectionSettings
from vilbert.plugins import PluginError
from vilbert.settings import PositiveInt, validated

PathText = Annotated[str, BeforeValidator(lambda value: os.fspath(value) if isinstance(value, os.PathLike) else value)]
"""A path as text, which Python code may give as a Path."""


class ExtractorError(Exception):
    """A detector that cannot be built or run as asked; says what, where and what to do."""


@validated
class DetectorSettings:
    """The detector, its weights and its precision."""

    detector: Annotated[str, tyro.conf.arg(help=detector_help())] = "torchvision"
    """Name of a detector, or `package.module:function` of your own."""
    weights: PathText | None = None
    """Weights file (.pkl, .pth or .safetensors), or `random` for a trial; default: the detector's own weights.
    transformers, vit, grid: a folder with config.json and .safetensors, or a Hugging Face hub name, NAME@REVISION."""
    seed: int = 0
    """Seed of `--weights random`."""
    torchvision_model: Literal[
        "resnet50_fpn", "resnet50_fpn_v2", "mobilenet_v3_large_fpn", "mobilenet_v3_large_320_fpn"
    ] = "resnet50_fpn"
    """Which of torchvision's fasterrcnn_* models."""
    config_file: PathText | None = None
    """detectron2: the model's YAML config file."""
    opts: tuple[str, ...] = ()
    """KEY VALUE pairs. detectron2: values that override the config file. Others: the detector's own settings."""
    vocabulary: PathText | None = None
    """Open-vocabulary models of transformers: a text file with the names to look for, one per line."""
    encoder: PathText | None = None
    """An image encoder of transformers (DINOv2, DINOv3, SigLIP, CLIP, ...), a folder or hub name. The feature of a box
    is then pooled from its feature map by RoIAlign, for detected and for given boxes."""
    encoder_feature: Literal["replace", "concat"] = "replace"
    """replace: the encoder's feature alone. concat: the detector's feature, followed by the encoder's."""
    encoder_size: Annotated[int, Interval(ge=32, le=4096)] | None = None
    """Side in pixels of the square to which the encoder resizes an image; default: the size it was trained at."""
    feature_layer: Literal["fc6", "fc7"] = "fc7"
    """FPN box heads: the fully connected layer whose output, after its ReLU, is the feature. C4 heads have one feature:
    the mean of res5."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Autocast of the convolutions; RoI coordinates, softmax and NMS stay float32."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto: a GPU if available."""
    top_classes: PositiveInt = 20
    """Number of most probable classes stored per region: the soft labels of pre-training."""

    def __post_init__(self) -> None:
        if len(self.opts) % 2:
            raise ValueError(f"--opts {' '.join(self.opts)}: give KEY VALUE pairs")
        defaults = type(self).__dataclass_fields__
        for name in ("encoder_feature", "encoder_size"):
            if self.encoder is None and getattr(self, name) != defaults[name].default:
                raise ValueError(f"--{name.replace('_', '-')} is a setting of --encoder; give that as well")
        check_options(
            self.detector,
            {
                name: value
                for name in defaults
                if (value := getattr(self, name)) != defaults[name].default and value is not None
            },
        )


class Extractor(Protocol):
    """A detector that is ready: images and optional given boxes in, `Regions` out, and a fingerprint.

    An image's regions do not depend on the other images of the batch. docs/extending/detector.md implements one. A
    detector that names objects but has no softmax over them has an attribute `soft_labels = False`, and leaves
    `class_ids` and `class_probs` out of its regions. One that has features of its own boxes only, and not of given
    ones, has an attribute `given_features = False`.
    """

    @property
    def feature_dim(self) -> int:
        """D, the number of channels of a region's feature."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class id; 0 is the background. Empty where regions have no objects."""

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """Names by attribute id; empty where the detector knows no attributes."""

    def fingerprint(self) -> dict[str, object]:
        """Return, as JSON values, all that the regions depend on: weights' sha256, config, preprocessing, selection.

        `device` names the kind of device, "cpu" or "cuda".
        """

    def resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) to which an image of this size is resized."""

    def extract(
        self,
        images: Sequence[NDArray[np.uint8]],
        given_boxes: Sequence[NDArray[np.float32] | None],
    ) -> list[Regions]:
        """Return the regions of each image.

        Args:
            images: RGB uint8 [H, W, 3], all of one `resized_shape`.
            given_boxes: For each image None, or float32 [N, 4] in xyxy pixels, which replace proposals and selection.

        Returns:
            Regions of each image, with boxes in pixels of that image.

        Raises:
            ValueError: The images have several resized shapes.
        """


@validated
class ExtractorSettings:
    """All settings that determine the regions of an image."""

    detector: DetectorSettings = field(default_factory=DetectorSettings)
    selection: SelectionSettings = field(default_factory=SelectionSettings)


def build_extractor(settings: ExtractorSettings) -> Extractor:
    """Build the detector that the settings name.

    Args:
        settings: Detector and box selection.

    Returns:
        The extractor, on its device and with its weights loaded.

    Raises:
        ExtractorError: The detector is not installed, or its weights do not exist or do not fit.
    """
    detector = settings.detector
    try:
        extractor = find_detector(detector.detector).load_build()(detector, settings.selection)
    except PluginError as error:
        raise ExtractorError(str(error)) from error
    return extractor if detector.encoder is None else add_encoder(extractor, detector)
