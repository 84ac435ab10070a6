"""Any detector of transformers as an extractor: one pass from pixels to boxes, classes and each box's hidden state.

A detector of this kind has no proposals and pools no regions: a box and its classes are computed from the last hidden
state of a query (of a patch, for OWL), and that state is the region's feature.

Shapes: B images, Q queries, C classes, D channels, N regions.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import box_convert, box_iou

from vilbert.extractors.assemble import assemble_regions
from vilbert.extractors.batch import common_resized_shape
from vilbert.extractors.boxes import clip_boxes
from vilbert.extractors.detectors.registry import own_settings
from vilbert.extractors.detectors.transformers.families import FAMILIES, Family
from vilbert.extractors.detectors.transformers.image_inputs import ImageInputs
from vilbert.extractors.detectors.transformers.spec import TransformersSettings
from vilbert.extractors.detectors.transformers.vocabulary import Prompts, make_prompts, read_vocabulary
from vilbert.extractors.device import autocast, resolve_device
from vilbert.extractors.extractor import DetectorSettings, ExtractorError
from vilbert.extractors.preprocessing import Preprocessing
from vilbert.extractors.pretrained import PretrainedFolder, load_pretrained, open_pretrained, plain_values
from vilbert.extractors.regions import Regions
from vilbert.extractors.selection import SelectionSettings

logger = logging.getLogger(__name__)

CANDIDATES = 1000
"""Queries of an image that selection looks at, those with the highest scores; OWLv2 has 3600."""
PREDICTORS = {
    *("bbox_embed", "bbox_predictor", "box_head"),
    *("class_embed", "class_labels_classifier", "class_head"),
    # of the first stage, which selects queries from the encoder's output
    *("enc_bbox_head", "enc_out_bbox_embed", "encoder_output_bbox_embed", "pre_bbox_head"),
    *("enc_score_head", "enc_out_class_embed", "encoder_output_class_embed"),
}
"""Submodules that compute boxes and class logits. They stay float32."""


class TransformersExtractor:
    """A detector of transformers that implements `vilbert.extractors.extractor.Extractor`."""

    attribute_names: tuple[str, ...] = ()
    given_features = False

    def __init__(
        self,
        *,
        model: Any,
        folder: PretrainedFolder,
        names: tuple[str, ...],
        prompts: Prompts | None,
        detector: DetectorSettings,
        selection: SelectionSettings,
    ) -> None:
        """Take the model over and move it to the device that the settings name.

        names: of the classes, without the background. prompts: of an open-vocabulary model.
        """
        self._family: Family = FAMILIES[folder.model_type]
        self._device = resolve_device(detector.device)
        self._inputs = ImageInputs(folder, fixed=folder.model_type in ("owlvit", "owlv2"))
        self._model = model.to(self._device)
        self._prompts = None if prompts is None else prompts.to(self._device)
        self._detector = detector
        self._selection = selection
        self._folder = folder
        self.class_names = ("__background__", *names)
        self.soft_labels = self._family.softmax
        config = getattr(model.config, "vision_config", model.config)
        self.feature_dim = int(getattr(config, "d_model", None) or config.hidden_size)
        _keep_float32(model, self._device.type)

    def fingerprint(self) -> dict[str, object]:
        """Return, as JSON values, all that the regions depend on."""
        facts: dict[str, object] = {
            "extractor": "transformers",
            "model_type": self._folder.model_type,
            "weights_sha256": self._folder.weights_sha256,
            "config": plain_values(self._model.config),
            "preprocessing": self._inputs.describe(),
            "candidates": CANDIDATES,
            "precision": self._detector.precision,
            "selection": asdict(self._selection),
            "device": self._device.type,
            "transformers": version("transformers"),
            "torchvision": version("torchvision"),
        }
        if self._detector.precision != "fp32":
            facts["predictor_precision"] = "fp32"
        if self._family.softmax:
            facts["top_classes"] = self._detector.top_classes
        if self._prompts is not None:
            facts["vocabulary"] = list(self.class_names[1:])
            facts["opts"] = list(self._detector.opts)
        return facts

    def resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) to which an image of this size is resized."""
        return self._inputs.resized_shape(height, width)

    @property
    def preprocessing(self) -> Preprocessing:
        """What the image processor does; see `preprocessing.Adjustable`."""
        return self._inputs.preprocessing

    @property
    def network(self) -> nn.Module:
        """The model."""
        module: nn.Module = self._model
        return module

    def with_preprocessing(self, changed: Preprocessing) -> TransformersExtractor:
        """Return an extractor of the same model with other preprocessing."""
        other = copy.copy(self)
        other._inputs = self._inputs.with_preprocessing(changed)
        return other

    @torch.inference_mode()
    def extract(
        self, images: Sequence[NDArray[np.uint8]], given_boxes: Sequence[NDArray[np.float32] | None]
    ) -> list[Regions]:
        """Return the regions of each image, as `Extractor.extract` says.

        A given box has no query of its own. It gets the classes of the query that overlaps it most, and its feature
        must come from --encoder.

        Raises:
            ExtractorError: Boxes are given and no encoder pools their features.
        """
        if not images:
            return []
        common_resized_shape(images, given_boxes, self.resized_shape)
        if any(boxes is not None for boxes in given_boxes) and not self._given_pooled():
            raise ExtractorError(
                "the manifest gives boxes, and a query detector cannot compute features of given boxes: add "
                "--encoder NAME "
                "--encoder-feature replace, or use --detector vit; both compute the feature of any box"
            )
        inputs = self._inputs.batch(images, self._device)
        with autocast(self._device, self._detector.precision):
            found = self._family.queries(self._model, inputs, self._prompts)
        if found.probs.shape[-1] != len(self.class_names):
            raise ExtractorError(
                f"{self._folder.name}: the model scores {found.probs.shape[-1] - 1} classes, config.json names "
                f"{len(self.class_names) - 1}"
            )
        return [
            self._regions(relative, probs, features, (image.shape[0], image.shape[1]), given)
            for relative, probs, features, image, given in zip(*found, images, given_boxes, strict=True)
        ]

    def _given_pooled(self) -> bool:
        return self._detector.encoder is not None and self._detector.encoder_feature == "replace"

    def _regions(
        self,
        relative: Tensor,  # [Q, 4] centre, size
        probs: Tensor,  # [Q, C + 1]
        features: Tensor,  # [Q, D]
        shape: tuple[int, int],
        given: NDArray[np.float32] | None,  # [N, 4] xyxy
    ) -> Regions:
        height, width = shape
        sides = (max(shape), max(shape)) if self._family.in_square else (width, height)
        boxes_xyxy = box_convert(relative, "cxcywh", "xyxy") * relative.new_tensor([*sides, *sides])
        if given is not None:
            given_xyxy = torch.tensor(given, device=self._device)
            nearest = box_iou(clip_boxes(given_xyxy.float(), height, width), boxes_xyxy).nan_to_num().argmax(dim=1)
            boxes_xyxy, probs, features = given_xyxy, probs[nearest], features[nearest]
        else:
            keep = _candidates(clip_boxes(boxes_xyxy, height, width), probs)
            boxes_xyxy, probs, features = boxes_xyxy[keep], probs[keep], features[keep]
        regions = assemble_regions(
            proposals_xyxy=boxes_xyxy,
            probs=probs,
            features=features,
            regressed_xyxy=None,
            height=height,
            width=width,
            selection=self._selection,
            given=given is not None,
            top_classes=self._detector.top_classes,
        )
        return regions if self._family.softmax else replace(regions, class_ids=None, class_probs=None)


def _candidates(boxes_xyxy: Tensor, probs: Tensor) -> Tensor:
    """Return the indices of the best queries whose box has an area in the image, in the order of the queries.

    OWLv2 has queries on the padding beside the image.
    """
    inside = ((boxes_xyxy[:, 2:] > boxes_xyxy[:, :2]).all(dim=1)).nonzero()[:, 0]
    scores = probs[inside, 1:].max(dim=1).values.nan_to_num()
    best = scores.sort(descending=True, stable=True).indices[:CANDIDATES]
    return inside[best.sort().values]


def _keep_float32(model: nn.Module, device_type: str) -> None:
    """Exclude the predictors from autocast.

    In bfloat16 a coordinate near 1000 would be off by 4 pixels, and many logits would be equal.
    """

    def exclude(head: nn.Module) -> None:
        forward = head.forward

        def in_float32(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast(device_type, enabled=False):
                return forward(*map(_as_float32, args), **{name: _as_float32(it) for name, it in kwargs.items()})

        head.forward = in_float32

    for name, module in model.named_modules():
        if name.rpartition(".")[2] in PREDICTORS:
            # one for each decoder layer, which may be the same one
            for head in dict.fromkeys(module) if isinstance(module, nn.ModuleList) else [module]:
                exclude(head)


def _as_float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def build(detector: DetectorSettings, selection: SelectionSettings) -> TransformersExtractor:
    """Build the extractor of a folder or hub name.

    Raises:
        ExtractorError: The model is not there, is no detector, or settings do not fit it.
    """
    assert detector.weights is not None  # DetectorSettings sees to it
    resolve_device(detector.device)  # before minutes of download
    if selection.saved_box != "proposal":
        raise ExtractorError(f"--saved-box {selection.saved_box}: a query has one box; leave it out")
    if selection.selection == "maxnms":
        raise ExtractorError("--selection maxnms: a query has no refined box; give --selection butd, topk or vinvl")
    folder = open_pretrained(detector.weights, option="--weights")
    family = FAMILIES.get(folder.model_type)
    if family is None:
        raise ExtractorError(
            f"--weights {folder.name}: model_type {folder.model_type!r} is not an object detector that "
            f"--detector transformers supports; it supports {', '.join(FAMILIES)}. "
            "Use an encoder with --detector vit or --encoder"
        )
    if family.open_vocabulary != (detector.vocabulary is not None):
        raise ExtractorError(
            f"--weights {folder.name}: is an open-vocabulary detector: give --vocabulary FILE, one name per line"
            if family.open_vocabulary
            else f"--vocabulary: {folder.name} has fixed classes; leave it out"
        )
    if not family.softmax and detector.top_classes != type(detector)().top_classes:
        raise ExtractorError(
            f"--top-classes {detector.top_classes}: {folder.name} has no softmax over its classes, so no soft labels "
            "are stored; leave it out"
        )
    return _build(folder, family, detector, selection)


def _build(
    folder: PretrainedFolder, family: Family, detector: DetectorSettings, selection: SelectionSettings
) -> TransformersExtractor:
    from transformers import AutoModelForObjectDetection, AutoModelForZeroShotObjectDetection

    settings = own_settings(TransformersSettings, detector.opts)
    if detector.opts and not family.open_vocabulary:
        raise ExtractorError(f"--opts {detector.opts[0]}: applies to open-vocabulary models only; leave it out")
    names = read_vocabulary(detector.vocabulary) if detector.vocabulary is not None else ()
    auto = AutoModelForZeroShotObjectDetection if family.open_vocabulary else AutoModelForObjectDetection
    model = load_pretrained(auto, folder)
    prompts = make_prompts(model, folder, names, settings.prompt) if names else None
    if not names:
        labels = model.config.id2label
        names = tuple(str(labels.get(index, f"class_{index + 1}")) for index in range(len(labels)))
    return TransformersExtractor(
        model=model, folder=folder, names=names, prompts=prompts, detector=detector, selection=selection
    )
