"""The `shapes` detector: a Faster R-CNN of torchvision's parts, small enough to ship and to train on two CPU cores.

It knows the classes and attributes of the shapes data set (`vilbert shapes`), which its data file names, so that the
whole pipeline can be driven by a detector that really detects where nothing can be downloaded. Its features are
those of any two-layer box head: `fc7` after its ReLU, 256 channels.

The backbone halves the image four times and adds the last map, enlarged, to the one before: one map of stride 8,
from which both proposals and regions are taken. Objects are 12 to 63 pixels wide, a range which one map and a
few anchor sizes cover without the cost of a pyramid.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.misc import Conv2dNormActivation

from vilbert.documents import Digest, List, document, from_json
from vilbert.extractors.detectors.torchvision_frcnn import TorchvisionExtractor
from vilbert.extractors.detectors.torchvision_models import load_state, randomise
from vilbert.extractors.extractor import DetectorSettings, ExtractorError
from vilbert.extractors.selection import SelectionSettings
from vilbert.extractors.weights import hash_tensors, load_weights
from vilbert.untrusted.documents import read_json

logger = logging.getLogger(__name__)

WEIGHTS = Path(__file__).parents[1] / "data" / "shapes_frcnn.safetensors"
"""The weights that come with the package; `python -m vilbert.pipeline.shapes.train_detector` made them."""
FEATURE_DIM = 256
"""Channels of fc7, a region's feature."""
MAP_CHANNELS = 64
POOLED = 7
SHORT_SIDE, LONG_SIDE = 224, 240
"""Pixels: an image is resized to have one of them and not to exceed the other. Scenes keep their size, or nearly so."""
ANCHOR_SIZES = (18, 27, 40, 58)
"""Pixels; the sides of objects of the shapes data set are 12 to 63."""


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions beside the identity (He et al. 2016)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            Conv2dNormActivation(channels, channels, 3),
            Conv2dNormActivation(channels, channels, 3, activation_layer=None),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape."""
        return F.relu(x + self.convs(x))


class Backbone(nn.Module):
    """Image [B, 3, H, W] to one map [B, MAP_CHANNELS, H/8, W/8]."""

    out_channels = MAP_CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self.stride8 = nn.Sequential(
            Conv2dNormActivation(3, 24, 3, stride=2),
            Conv2dNormActivation(24, 48, 3, stride=2),
            ResidualBlock(48),
            Conv2dNormActivation(48, 96, 3, stride=2),
            ResidualBlock(96),
        )
        self.stride16 = nn.Sequential(Conv2dNormActivation(96, 128, 3, stride=2), ResidualBlock(128))
        self.lateral8 = Conv2dNormActivation(96, MAP_CHANNELS, 1, activation_layer=None)
        self.lateral16 = Conv2dNormActivation(128, MAP_CHANNELS, 1, activation_layer=None)
        self.smooth = Conv2dNormActivation(MAP_CHANNELS, MAP_CHANNELS, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Return the map of stride 8."""
        fine = self.stride8(images)
        coarse = F.interpolate(self.lateral16(self.stride16(fine)), size=fine.shape[-2:], mode="nearest")
        joined: Tensor = self.smooth(self.lateral8(fine) + coarse)
        return joined


class AttributeHead(nn.Module):
    """Features [P, FEATURE_DIM] to logits [P, A] of combinations of attributes, each linear in the feature.

    The logit of a combination is the sum of its parts', so its probability is the product of the parts': a region has
    one attribute, as with Visual Genome's detectors, that says several independent things.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        """counts: how many values each kind of attribute has; A is their product."""
        super().__init__()
        self.kinds = nn.ModuleList(nn.Linear(FEATURE_DIM, count) for count in counts)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits of the combinations, in the order of `itertools.product`."""
        logits = features.new_zeros(len(features), 1)
        for kind in self.kinds:
            logits = (logits[:, :, None] + kind(features)[:, None, :]).flatten(start_dim=1)
        return logits


class ShapesDetector(nn.Module):
    """The detector and its attribute head, whose weights lie in one file."""

    def __init__(self, classes: int, attributes: Sequence[int]) -> None:
        """classes: with the background; attributes: how many values each kind of attribute has."""
        super().__init__()
        self.detector = FasterRCNN(
            Backbone(),
            min_size=SHORT_SIDE,
            max_size=LONG_SIDE,
            size_divisible=16,
            image_mean=[0.5] * 3,
            image_std=[0.25] * 3,
            rpn_anchor_generator=AnchorGenerator((ANCHOR_SIZES,), ((1.0,),)),
            rpn_pre_nms_top_n_train=400,
            rpn_post_nms_top_n_train=200,
            rpn_pre_nms_top_n_test=300,
            rpn_post_nms_top_n_test=100,
            rpn_batch_size_per_image=64,
            rpn_fg_iou_thresh=0.6,
            box_roi_pool=MultiScaleRoIAlign(["0"], POOLED, sampling_ratio=2),
            box_head=TwoMLPHead(MAP_CHANNELS * POOLED**2, FEATURE_DIM),
            box_predictor=FastRCNNPredictor(FEATURE_DIM, classes),
            box_batch_size_per_image=32,
            box_positive_fraction=0.5,
        )
        self.attributes = AttributeHead(attributes)
        for layer in (self.detector.roi_heads.box_head.fc6, self.detector.roi_heads.box_head.fc7):
            # torch's own first values let the signal fade through two layers without normalisation.
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)


@document
class Card:
    """What lies beside a weights file: the names that it was trained to say."""

    class_names: List[str]
    """Without the background."""
    attributes: dict[str, List[str]]
    """The values of each kind of attribute, in the order of the heads."""
    sha256: Digest
    """Of the weights file."""
    trained: dict[str, Any] = field(default_factory=dict)
    """How it was trained; for people."""
    held_out: dict[str, float] = field(default_factory=dict)
    """Its metrics on scenes that it was not trained on; for people."""

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """One value of each kind, such as `small red striped`, by attribute id."""
        return tuple(" ".join(values) for values in itertools.product(*self.attributes.values()))


def read_card(weights: Path) -> Card:
    """Read NAME.json beside the weights NAME.safetensors; raise ExtractorError where it is missing or damaged."""
    path = weights.with_suffix(".json")
    try:
        return from_json(Card, read_json(path), optional=("trained", "held_out"))
    except OSError as error:
        raise ExtractorError(
            f"{path}: cannot read the class names of {weights.name}: {error.strerror}. "
            "Keep both files that python -m vilbert.pipeline.shapes.train_detector wrote together"
        ) from error
    except ValueError as error:
        raise ExtractorError(f"{path}: not the class names of a shapes detector: {error}") from error


def build(detector: DetectorSettings, selection: SelectionSettings) -> TorchvisionExtractor:
    """Build the detector of the shapes data set; its own weights come with the package.

    Raises ExtractorError where other weights were asked for and are missing, damaged, or another model's.
    """
    random = detector.weights == "random"
    path = Path(detector.weights) if detector.weights and not random else WEIGHTS
    card = read_card(path)
    # Layers draw their first values from torch's global generator, which is not ours to move on.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(detector.seed)
        model = ShapesDetector(len(card.class_names) + 1, [len(values) for values in card.attributes.values()])
    if random:
        logger.warning("--weights random: an untrained detector (seed %d); its regions are meaningless", detector.seed)
        randomise(model.detector, detector.seed)
        sha256 = hash_tensors(model.state_dict())
    else:
        state, sha256 = load_weights(path)
        if sha256 != card.sha256:
            raise ExtractorError(
                f"{path}: its sha256 is {sha256}, but {path.with_suffix('.json').name} belongs to {card.sha256}: "
                "one of the two files was damaged or replaced"
            )
        load_state(model, state, path)
    return TorchvisionExtractor(
        model=model.detector,
        class_names=("background", *card.class_names),
        facts={"extractor": "shapes", "weights_sha256": sha256},
        detector=detector,
        selection=selection,
        attribute_head=model.attributes,
        attribute_names=card.attribute_names,
    )
