"""Settings of detectors, box selection and decoding, apart from the code that reads them: they import nothing heavy."""

from __future__ import annotations

import os
import re
from dataclasses import field
from typing import Annotated, Literal

import tyro
from annotated_types import Ge, Interval

from vilbert.extractors.byte_size import ByteSize
from vilbert.extractors.detectors.registry import check_options, detector_help
from vilbert.settings import PositiveInt, Share, Validator, validated

_PILLOW_PIXELS = 89_478_485  # beyond it Pillow warns of a decompression bomb, and beyond twice that refuses
PathText = Annotated[
    str, Validator("before", lambda value: os.fspath(value) if isinstance(value, os.PathLike) else value)
]
"""A path as text, which Python code may give as a Path."""


@validated
class DecodeSettings:
    """Decoding of images. All settings are part of the fingerprint of a data set."""

    exif_orientation: bool = True
    """Apply the EXIF orientation, except to images whose manifest row keeps stored pixels (COCO, Visual Genome) or has
    given boxes. Off: apply it to no image."""
    allow_truncated: bool = False
    """Accept truncated JPEG files; missing pixels are grey."""
    max_bytes: Annotated[ByteSize, Ge(1)] = 64 * 1024 * 1024
    """Maximum file size: bytes, or a size such as 64MiB."""
    max_pixels: PositiveInt = 50_000_000
    """Maximum number of pixels of an image. A decoder needs up to 32 bytes of memory per pixel."""
    max_side: PositiveInt = 20_000
    """Maximum length of an image's longer side, in pixels."""
    min_side: PositiveInt = 16
    """Minimum length of an image's shorter side, in pixels."""
    max_aspect: Annotated[float, Ge(1)] = 20.0
    """Maximum aspect ratio: longer side divided by shorter side."""

    def __post_init__(self) -> None:
        if self.max_pixels > _PILLOW_PIXELS:
            raise ValueError(
                f"--max-pixels {self.max_pixels}: give at most {_PILLOW_PIXELS}, Pillow's own limit; "
                "resize larger images before extraction"
            )
        if self.max_side < self.min_side:
            raise ValueError(f"--max-side {self.max_side}: give at least --min-side, {self.min_side}")


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
                raise ValueError(f"--{name.replace('_', '-')} requires --encoder")
        check_options(
            self.detector,
            {
                name: value
                for name in defaults
                if (value := getattr(self, name)) != defaults[name].default and value is not None
            },
        )


@validated
class SelectionSettings:
    """Selection of the regions that are stored."""

    boxes: Annotated[str, Validator("before", lambda value: str(value) if type(value) is int else value)] = "36"
    """Regions per image: a number or MIN-MAX. Published feature sets have 36, 10-100 or 100."""
    selection: Literal["butd", "topk", "vinvl", "maxnms"] = "butd"
    """butd: regions above --confidence, between MIN and MAX, in the order of the proposals (Anderson et al. 2018).
    topk: the MAX regions with the highest scores, in descending order. vinvl: as butd, in descending order of scores.
    maxnms: one suppression of the refined boxes of the best classes, at --nms, then 0.1 more, ... up to 0.9 until MIN
    are left (airsplay/py-bottom-up-attention)."""
    confidence: Share = 0.2
    """butd, vinvl: minimum probability of a region's best class after NMS."""
    nms: Share = 0.3
    """IoU threshold of non-maximum suppression, applied per class."""
    saved_box: Literal["proposal", "regressed", "both"] = "proposal"
    """proposal: the box from which the feature was pooled. regressed: the refined box of the best class. both: the
    proposal, and beside it the refined box as `object_boxes`."""

    def __post_init__(self) -> None:
        match = re.fullmatch(r"(\d+)(?:-(\d+))?", self.boxes)
        if not match or not 1 <= int(match[1]) <= int(match[2] or match[1]):
            raise ValueError(f"--boxes {self.boxes}: give a number such as 36, or MIN-MAX such as 10-100")

    @property
    def min_boxes(self) -> int:
        """The least number of regions."""
        return int(self.boxes.partition("-")[0])

    @property
    def max_boxes(self) -> int:
        """The greatest number of regions."""
        return int(self.boxes.rpartition("-")[2])

    @property
    def needs_regressed(self) -> bool:
        """Whether the refined boxes are needed."""
        return self.saved_box != "proposal" or self.selection == "maxnms"


@validated
class ExtractorSettings:
    """All settings that determine the regions of an image."""

    detector: DetectorSettings = field(default_factory=DetectorSettings)
    selection: SelectionSettings = field(default_factory=SelectionSettings)
