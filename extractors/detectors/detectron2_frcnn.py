"""Region features from any stock Faster R-CNN of detectron2, C4 or FPN, in one pass over the image.

detectron2 is driven part by part, where its own `inference` would pool the kept boxes again: backbone, proposals, the
pooled regions' features, the predictor, and of all those the selection. Nothing needs its compiled extension.

Shapes: B images, P regions of one of them, R regions of all, C foreground classes, D feature channels.

Precision: `--precision` is that of the convolutions and fully connected layers. Maps are made float32 before regions
are pooled, for detectron2's RoIAlign takes the coordinates to the map's dtype, and in bfloat16 a coordinate near 1000
is off by up to 4 pixels. The predictor's layers, the decoding of boxes, softmax and NMS are float32 too.
"""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from vilbert.extractors.assemble import assemble_regions
from vilbert.extractors.batch import ResizedImage, common_resized_shape
from vilbert.extractors.boxes import resize_given, scale_boxes
from vilbert.extractors.detectors.detectron2_config import (
    CONFIG_ERRORS,
    class_names,
    config_values,
    load_config,
    require_detectron2,
)
from vilbert.extractors.detectors.detectron2_weights import damp, load_into
from vilbert.extractors.device import autocast, resolve_device
from vilbert.extractors.extractor import DetectorSettings, ExtractorError
from vilbert.extractors.preprocessing import Preprocessing
from vilbert.extractors.regions import Regions
from vilbert.extractors.selection import SelectionSettings
from vilbert.extractors.weights import hash_tensors

logger = logging.getLogger(__name__)

ROIS_AT_ONCE = 512
"""Regions pooled and put through the head together: 0.4 GB of 14x14 regions of 1024 channels in float32."""

# The names of the field for detectron2's layers.
_FC = {"fc6": "fc1", "fc7": "fc2"}


def build(detector: DetectorSettings, selection: SelectionSettings) -> Detectron2Extractor:
    """Build the extractor of a config file and its weights.

    Raises ExtractorError where detectron2 cannot be imported, the config is not of a stock Faster R-CNN, the weights
    are not the model's, or the device or feature layer is not there.
    """
    require_detectron2()
    assert detector.config_file is not None  # DetectorSettings sees to it
    config = load_config(detector.config_file, detector.opts)
    device = resolve_device(detector.device)
    model, weights = load_model(detector, config)
    # cuDNN's convolutions of reduced precision are made for this layout; the CPU's choose their own.
    layout = torch.channels_last if device.type == "cuda" else torch.preserve_format
    return Detectron2Extractor(model.eval().to(device, memory_format=layout), config, detector, selection, weights)


def load_model(detector: DetectorSettings, config: Any) -> tuple[Any, str]:
    """Return the config's model, on the CPU, and the sha256 of its weights."""
    assert detector.config_file is not None  # DetectorSettings sees to it
    model = _build_model(detector.config_file, config, detector.seed)
    return model, _load(model, detector, config)


def _build_model(config_file: str, config: Any, seed: int) -> Any:
    from detectron2.modeling import build_model

    config = config.clone()
    config.defrost()
    # On the CPU whatever the device: a seed then gives the same random weights everywhere.
    config.MODEL.DEVICE = "cpu"
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would seed the GPU's generators as well.
        torch.default_generator.manual_seed(seed)
        try:
            return build_model(config)
        except CONFIG_ERRORS as error:
            raise ExtractorError(f"--config-file {config_file}: cannot build its model: {error}") from error


def _load(model: Any, detector: DetectorSettings, config: Any) -> str:
    """Load or draw the weights and return their sha256."""
    path = detector.weights or config.MODEL.WEIGHTS
    if path == "random":
        logger.warning("--weights random: the model is untrained (seed %d); its regions are meaningless", detector.seed)
        damp(model)
        return hash_tensors(model.state_dict())
    if not path or "://" in path:
        named = f"; the config names {path}: download it" if path else ""
        raise ExtractorError(f"--detector detectron2 needs --weights, a file of trained weights, or `random`{named}")
    return load_into(model, path)


class Detectron2Extractor:
    """A Faster R-CNN of detectron2 as an `Extractor`; `build` makes it."""

    def __init__(
        self, model: Any, config: Any, detector: DetectorSettings, selection: SelectionSettings, weights: str
    ) -> None:
        self._model = model
        self._config = config
        self._detector = detector
        self._selection = selection
        self._weights = weights
        self._c4 = config.MODEL.ROI_HEADS.NAME == "Res5ROIHeads"
        self._pooler = model.roi_heads.pooler if self._c4 else model.roi_heads.box_pooler
        self._predictor = model.roi_heads.box_predictor
        self._feature_dim = self._predictor.cls_score.in_features if self._c4 else self._fc_width()
        self._feature_relu = _FC[detector.feature_layer].replace("fc", "fc_relu")
        self._refines = selection.needs_regressed
        self._class_names = class_names(config)
        self._preprocessing = self._own = preprocessing_of(config)

    def _fc_width(self) -> int:
        """Return the channels of the box head's layer that --feature-layer names: fc6 is its first, fc7 its second."""
        layers = dict(self._model.roi_heads.box_head.named_children())
        wanted = self._detector.feature_layer
        if _FC[wanted] not in layers:
            there = [name for name, layer in _FC.items() if layer in layers]
            raise ExtractorError(
                f"--feature-layer {wanted}: the box head of this config has {' and '.join(there) or 'no such layers'} "
                f"(MODEL.ROI_BOX_HEAD.NUM_FC is {self._config.MODEL.ROI_BOX_HEAD.NUM_FC})"
            )
        return int(layers[_FC[wanted]].out_features)

    @property
    def feature_dim(self) -> int:
        """D: 2048 of a C4 model, 1024 of an FPN model, where the config says nothing else."""
        return self._feature_dim

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class id; 0 is the background, which detectron2 itself counts last."""
        return self._class_names

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """Empty: stock models have no attribute predictor."""
        return ()

    def fingerprint(self) -> dict[str, object]:
        """Return all that the regions depend on."""
        import detectron2

        return {
            "extractor": "detectron2",
            "version": detectron2.__version__,
            "weights_sha256": self._weights,
            "config": config_values(self._config),
            "selection": asdict(self._selection),
            "feature_layer": "res5" if self._c4 else self._detector.feature_layer,
            "precision": self._detector.precision,
            "device": self._model.device.type,
            "top_classes": self._detector.top_classes,
        }

    @property
    def network(self) -> torch.nn.Module:
        """The model."""
        return self._model  # type: ignore[no-any-return]

    @property
    def preprocessing(self) -> Preprocessing:
        """How pixels become the network's input."""
        return self._preprocessing

    def with_preprocessing(self, changed: Preprocessing) -> Detectron2Extractor:
        """Return an extractor of the same model with other preprocessing."""
        other = copy.copy(self)
        other._preprocessing = changed
        return other

    def resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) that detectron2's ResizeShortestEdge gives at test time, at least 1 pixel each."""
        from detectron2.data.transforms import ResizeShortestEdge

        short, long = self._preprocessing.short_side, self._preprocessing.long_side
        if short == 0:  # detectron2: no resizing
            return height, width
        new_height, new_width = ResizeShortestEdge.get_output_shape(height, width, short, long)
        return max(1, new_height), max(1, new_width)

    @torch.inference_mode()
    def extract(
        self, images: Sequence[NDArray[np.uint8] | ResizedImage], given_boxes: Sequence[NDArray[np.float32] | None]
    ) -> list[Regions]:
        """Return the regions of each image, as `Extractor.extract` says."""
        if not images:
            return []
        resized = common_resized_shape(images, given_boxes, self.resized_shape)
        inputs = [image if isinstance(image, ResizedImage) else self.resize(image) for image in images]
        batch = self._model.preprocess_image([{"image": it.pixels} for it in inputs])
        batch.tensor = pad(batch.tensor, self._preprocessing.pad_to, self._model.backbone.size_divisibility)
        with autocast(self._model.device, self._detector.precision):
            maps = self._model.backbone(batch.tensor)

        stored = [it.stored for it in inputs]
        given = [None if boxes is None else torch.tensor(boxes, device=self._model.device) for boxes in given_boxes]
        proposals = iter(self._propose(batch, maps, [row for row, boxes in enumerate(given) if boxes is None]))
        rois = [
            next(proposals) if boxes is None else resize_given(boxes, shape, resized)
            for boxes, shape in zip(given, stored, strict=True)
        ]
        outputs = self._describe(maps, rois)
        return [
            assemble_regions(
                # Given boxes as they were given, not there and back through the resized image.
                proposals_xyxy=scale_boxes(roi, resized, shape) if boxes is None else boxes,
                probs=probs,
                features=features,
                regressed_xyxy=scale_boxes(self._refined(deltas, roi), resized, shape) if self._refines else None,
                height=shape[0],
                width=shape[1],
                selection=self._selection,
                given=boxes is not None,
                top_classes=self._detector.top_classes,
            )
            for shape, boxes, roi, (features, probs, deltas) in zip(stored, given, rois, outputs, strict=True)
        ]

    def resize(self, image: NDArray[np.uint8]) -> ResizedImage:
        """Resize as detectron2's DefaultPredictor does, with PIL's bilinear filter, to uint8 [3, height, width]."""
        stored = (image.shape[0], image.shape[1])
        resized = self.resized_shape(*stored)
        if stored != resized:
            image = np.asarray(Image.fromarray(image).resize(resized[::-1], Image.Resampling.BILINEAR))
        pixels: NDArray[Any] = image if self._preprocessing == self._own else self._renormalised(image)
        if self._config.INPUT.FORMAT == "BGR":
            pixels = pixels[:, :, ::-1]
        return ResizedImage(stored=stored, pixels=torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1))))

    def _renormalised(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return RGB pixels which the model's own mean and deviation turn into those of other preprocessing."""
        mean, std, own_mean, own_std = (
            np.array(values, np.float32)
            for values in (self._preprocessing.mean, self._preprocessing.std, self._own.mean, self._own.std)
        )
        return ((image - mean) / std * own_std + own_mean).astype(np.float32)

    def _propose(self, batch: Any, maps: dict[str, Tensor], rows: list[int]) -> list[Tensor]:
        """Return the proposals [P, 4] of the images in these rows of the batch, most object-like first."""
        if not rows:
            return []
        rpn = self._model.proposal_generator
        levels = [maps[name][rows] for name in rpn.in_features]
        with autocast(self._model.device, self._detector.precision):
            hidden = [rpn.rpn_head.conv(level) for level in levels]
        # The 1x1 convolutions in float32: in bfloat16 many logits would be equal, and the order of proposals chance.
        logits = [rpn.rpn_head.objectness_logits(level.float()) for level in hidden]
        deltas = [rpn.rpn_head.anchor_deltas(level.float()) for level in hidden]
        proposals = rpn.predict_proposals(
            rpn.anchor_generator(levels),
            [level.permute(0, 2, 3, 1).flatten(1) for level in logits],  # [B, H·W·anchors]
            [level.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3) for level in deltas],  # [..., 4]
            [batch.image_sizes[row] for row in rows],
        )
        return [found.proposal_boxes.tensor for found in proposals]

    def _describe(self, maps: dict[str, Tensor], rois: Sequence[Tensor]) -> list[tuple[Tensor, ...]]:
        """Return for each image its regions' features [P, D], class probabilities [P, C + 1] and box deltas.

        The regions of all images go through the head together, in chunks so that memory is bounded.
        """
        from detectron2.structures import Boxes

        levels = [maps[name].float() for name in self._model.roi_heads.in_features]
        counts = [len(roi) for roi in rois]
        every_roi = torch.cat(list(rois))
        every_row = torch.repeat_interleave(torch.tensor(counts)).to(every_roi.device)
        chunks = []
        for chunk, rows in zip(*(torch.split(values, ROIS_AT_ONCE) for values in (every_roi, every_row)), strict=True):
            pooled = self._pooler(levels, [Boxes(chunk[rows == row]) for row in range(len(rois))])
            features, last = self._head(pooled)
            logits, deltas = self._predictor(last)
            # detectron2 counts the background last.
            chunks.append((features, logits.softmax(dim=1).roll(1, dims=1), deltas))
        outputs = (torch.split(torch.cat(parts), counts) for parts in zip(*chunks, strict=True))
        return list(zip(*outputs, strict=True))

    def _head(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Return of pooled regions [R, channels, h, w] the feature [R, D], and what the predictor reads; float32."""
        with autocast(self._model.device, self._detector.precision):
            if self._c4:
                mean = self._model.roi_heads.res5(pooled).float().mean(dim=(2, 3))
                return mean, mean
            x = features = pooled
            for name, layer in self._model.roi_heads.box_head.named_children():
                x = layer(x)
                if name == self._feature_relu:
                    features = x
        return features.float(), x.float()

    def _refined(self, deltas: Tensor, roi: Tensor) -> Tensor:
        """Return each foreground class's box [P, C, 4]: the proposal, moved by the predictor's deltas."""
        boxes: Tensor = self._predictor.box2box_transform.apply_deltas(deltas, roi).unflatten(1, (-1, 4))
        return boxes.expand(-1, len(self._class_names) - 1, -1)  # class-agnostic models have one for all


def preprocessing_of(config: Any) -> Preprocessing:
    """Return the preprocessing of a config."""
    order = slice(None, None, -1 if config.INPUT.FORMAT == "BGR" else 1)
    means, deviations = config.MODEL.PIXEL_MEAN[order], config.MODEL.PIXEL_STD[order]
    return Preprocessing(
        mean=(means[0], means[1], means[2]),
        std=(deviations[0], deviations[1], deviations[2]),
        short_side=config.INPUT.MIN_SIZE_TEST,
        long_side=config.INPUT.MAX_SIZE_TEST,
    )


def pad(batch: Tensor, least: tuple[int, int], multiple: int) -> Tensor:
    """Return a batch [B, 3, H, W] padded with zeros to the right and below to at least (height, width).

    multiple: the padded sides are multiples of it; 0 for any.
    """
    multiple = max(1, multiple)
    down, right = (
        max(0, -(-wanted // multiple) * multiple - have) for wanted, have in zip(least, batch.shape[2:], strict=True)
    )
    return F.pad(batch, (0, right, 0, down)) if down or right else batch
