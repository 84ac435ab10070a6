"""Any Faster R-CNN of torchvision's parts as an extractor: one pass from pixels to regions and their features.

torchvision's own forward drops the link from a detection to its proposal. Here its parts run one after the other, so
that the feature of a kept region is a row of what was computed, and nothing is pooled twice.

Shapes: B images, R boxes of all images, C foreground classes, D feature channels, A attributes. `stored` is an image's
(height, width) as decoded, `resized` the one that the network sees; `padded` is that, up to a multiple of the stride.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.faster_rcnn import TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import roi_align
from torchvision.ops.poolers import LevelMapper

from vilbert.extractors.assemble import assemble_regions
from vilbert.extractors.assemble_batch import BatchOutputs, assemble_batch, can_select_batch, rows_of, size_factors
from vilbert.extractors.batch import ResizedImage, common_resized_shape, stored_shape
from vilbert.extractors.batch_proposals import pool_levels, suppress_batch
from vilbert.extractors.boxes import resize_given, scale_boxes
from vilbert.extractors.device import autocast, constant, convert_weights, page_locked, resolve_device
from vilbert.extractors.extractor import DetectorSettings
from vilbert.extractors.folding import fold_batch_norms
from vilbert.extractors.preprocessing import Preprocessing
from vilbert.extractors.regions import Regions
from vilbert.extractors.selection import SelectionSettings


class _HeadOutputs(NamedTuple):
    """What the box head says of R boxes, all float32."""

    features: Tensor  # [R, D]
    probs: Tensor  # [R, C + 1]
    regressed_xyxy: Tensor | None  # [R, C, 4] pixels of the resized image
    attribute_probs: Tensor | None  # [R, A]

    def of(self, rows: Tensor) -> _HeadOutputs:
        """Return some rows."""
        return self.map(lambda values: values[rows])

    def map(self, change: Callable[[Tensor], Tensor]) -> _HeadOutputs:
        """Return changed values."""
        regressed_xyxy = None if self.regressed_xyxy is None else change(self.regressed_xyxy)
        attribute_probs = None if self.attribute_probs is None else change(self.attribute_probs)
        return _HeadOutputs(change(self.features), change(self.probs), regressed_xyxy, attribute_probs)

    def split(self, counts: list[int]) -> list[_HeadOutputs]:
        """Return the rows of each image."""
        columns = ([None] * len(counts) if rows is None else torch.split(rows, counts) for rows in self)
        return [_HeadOutputs(*parts) for parts in zip(*columns, strict=True)]


class TorchvisionExtractor:
    """A torchvision FasterRCNN that implements `vilbert.extractors.extractor.Extractor`."""

    def __init__(
        self,
        *,
        model: FasterRCNN,
        class_names: Sequence[str],
        facts: Mapping[str, object],
        detector: DetectorSettings,
        selection: SelectionSettings,
        attribute_head: nn.Module | None = None,
        attribute_names: Sequence[str] = (),
    ) -> None:
        """Take the model over and move it to the device that the settings name.

        class_names: by class id, the background first; as many as the box predictor has logits.
        facts: what the fingerprint must say beside preprocessing and settings: the extractor's and model's names, the
            weights' sha256.
        attribute_head: the box head's output [R, D] to logits [R, A] over `attribute_names`.

        Raises ExtractorError where there is no such device, ValueError where the names are not the model's.
        """
        logits = model.roi_heads.box_predictor.cls_score.out_features
        if len(class_names) != logits:
            raise ValueError(f"{len(class_names)} class names for a detector of {logits} classes")
        self._device = resolve_device(detector.device)
        # cuDNN's convolutions of reduced precision are made for this layout; the CPU's choose their own.
        layout = torch.channels_last if self._device.type == "cuda" else torch.preserve_format
        model = model.eval().requires_grad_(False)
        if self._device.type == "cuda":
            fold_batch_norms(model)
        self._model = model.to(self._device, memory_format=layout)
        self._model.rpn.anchor_generator.set_cell_anchors(torch.float32, self._device)  # here, and in no thread later
        reduced = [model.backbone, model.rpn.head.conv, model.roi_heads.box_head]
        convert_weights(reduced, self._device, detector.precision)
        self._transform = model.transform
        self._pad_to = (0, 0)
        self._attribute_head = attribute_head.eval().to(self._device) if attribute_head is not None else None
        self._layout = layout
        self._class_names = tuple(class_names)
        self._attribute_names = tuple(attribute_names)
        self._facts = dict(facts)
        self._detector = detector
        self._selection = selection

    @property
    def feature_dim(self) -> int:
        """D, the channels of a region's feature."""
        if self._feature_layer() == "fc6":
            return int(self._model.roi_heads.box_head.fc6.out_features)
        return int(self._model.roi_heads.box_predictor.cls_score.in_features)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class id; 0 is the background."""
        return self._class_names

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """Names by attribute id; empty where the detector knows no attributes."""
        return self._attribute_names

    def fingerprint(self) -> dict[str, object]:
        """Return, as JSON values, all that the regions depend on."""
        transform, rpn = self._transform, self._model.rpn
        pool = self._model.roi_heads.box_roi_pool
        reduced = {} if self._detector.precision == "fp32" else {"rpn_predictor_precision": "fp32"}
        return {
            **reduced,
            **self._facts,
            "resize_min": transform.min_size[-1],
            "resize_max": transform.max_size,
            "resize_fixed": None if transform.fixed_size is None else list(transform.fixed_size),
            "pad_to_multiple_of": transform.size_divisible,
            "image_mean": list(transform.image_mean),
            "image_std": list(transform.image_std),
            "anchor_sizes": [list(sizes) for sizes in rpn.anchor_generator.sizes],
            "anchor_ratios": [list(ratios) for ratios in rpn.anchor_generator.aspect_ratios],
            "rpn_pre_nms": rpn.pre_nms_top_n(),
            "rpn_post_nms": rpn.post_nms_top_n(),
            "rpn_nms": rpn.nms_thresh,
            "rpn_score": rpn.score_thresh,
            "rpn_min_size": rpn.min_size,
            "roi_output_size": list(pool.output_size),
            "roi_sampling_ratio": pool.sampling_ratio,
            "box_weights": list(self._model.roi_heads.box_coder.weights),
            "feature_layer": self._feature_layer(),
            "precision": self._detector.precision,
            "top_classes": self._detector.top_classes,
            "selection": asdict(self._selection),
            "device": self._device.type,
        }

    @property
    def network(self) -> nn.Module:
        """The model."""
        model: nn.Module = self._model
        return model

    @property
    def preprocessing(self) -> Preprocessing:
        """How pixels become the network's input."""
        transform = self._transform
        red, green, blue = (
            (255 * mean, 255 * std) for mean, std in zip(transform.image_mean, transform.image_std, strict=True)
        )
        return Preprocessing(
            mean=(red[0], green[0], blue[0]),
            std=(red[1], green[1], blue[1]),
            short_side=transform.min_size[-1],
            long_side=transform.max_size,
            pad_to=self._pad_to,
        )

    def with_preprocessing(self, changed: Preprocessing) -> TorchvisionExtractor:
        """Return an extractor of the same model with other preprocessing."""
        other = copy.copy(self)
        transform = copy.copy(self._transform)
        transform.image_mean = [mean / 255 for mean in changed.mean]
        transform.image_std = [std / 255 for std in changed.std]
        transform.min_size, transform.max_size = (changed.short_side,), changed.long_side
        other._transform, other._pad_to = transform, changed.pad_to
        return other

    def resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) to which an image of this size is resized."""
        transform = self._transform
        if transform.fixed_size is not None:
            return transform.fixed_size[1], transform.fixed_size[0]
        # the arithmetic of torchvision's transform and of F.interpolate, to the last bit: floor amplifies rounding
        # differences
        scale = min(transform.min_size[-1] / min(height, width), transform.max_size / max(height, width))
        # a thread-like image keeps at least a pixel
        return max(1, math.floor(height * scale)), max(1, math.floor(width * scale))

    @torch.inference_mode()
    def extract(
        self,
        images: Sequence[NDArray[np.uint8] | ResizedImage],
        given_boxes: Sequence[NDArray[np.float32] | None],
    ) -> list[Regions]:
        """Return the regions of each image.

        images: RGB [H, W, 3] each, all of one `resized_shape` (ValueError otherwise).
        given_boxes: for each image None, or [N, 4] xyxy pixels which then take the place of proposals and selection.
        """
        if not images:
            return []
        resized = common_resized_shape(images, given_boxes, self.resized_shape)
        stored = [stored_shape(image) for image in images]
        batch = self._batch(images, resized)
        given = [None if boxes is None else torch.tensor(boxes, device=self._device) for boxes in given_boxes]

        maps = self._feature_maps(batch)
        if can_select_batch(self._device, given_boxes, self._selection):
            return self._regions_of_batch(batch, maps, resized, stored)
        boxes_xyxy = [
            proposals if boxes is None else resize_given(boxes, shape, resized)
            for proposals, boxes, shape in zip(self._proposals(batch, maps, resized, given), given, stored, strict=True)
        ]
        outputs = self._box_head(batch, maps, boxes_xyxy).split([len(boxes) for boxes in boxes_xyxy])
        return [
            self._regions(boxes, output, resized, shape, given_xyxy)
            for boxes, output, shape, given_xyxy in zip(boxes_xyxy, outputs, stored, given, strict=True)
        ]

    def _regions_of_batch(
        self, batch: Tensor, maps: Mapping[str, Tensor], resized: tuple[int, int], stored: list[tuple[int, int]]
    ) -> list[Regions]:
        """Propose, describe and select the regions of all images at once, as a GPU does it."""
        boxes_xyxy, is_there = self._batch_proposals(batch, maps, resized)  # [B, P, 4]
        every, deltas = self._describe(*self._pool_batch(batch, maps, boxes_xyxy))
        output = every.map(lambda values: values.view(*is_there.shape, *values.shape[1:]))
        factors = size_factors([(height / resized[0], width / resized[1]) for height, width in stored], self._device)

        def refine(keep: Tensor, classes: Tensor) -> Tensor:
            of_class = rows_of(deltas.view(*is_there.shape, -1, 4), keep, classes + 1).flatten(0, 1)
            rois = rows_of(boxes_xyxy, keep).flatten(0, 1)
            refined: Tensor = self._model.roi_heads.box_coder.decode_single(of_class, rois)
            return refined.view(*keep.shape, 4) * factors

        attributes = output.attribute_probs
        found = assemble_batch(
            BatchOutputs(
                proposals_xyxy=boxes_xyxy * factors,
                is_there=is_there,
                probs=output.probs,
                features=output.features,
                shapes=stored,
                refine=refine,
                attributes=None if attributes is None else lambda keep, _classes: rows_of(attributes, keep),
            ),
            self._selection,
            self._detector.top_classes,
        )
        if all(regions is not None for regions in found):
            return [regions for regions in found if regions is not None]
        with_boxes = every._replace(regressed_xyxy=self._regressed(deltas, list(boxes_xyxy)))
        parts = with_boxes.split([is_there.shape[1]] * len(found))
        return [
            self._regions(boxes_xyxy[row][there], output.of(there), resized, stored[row], None)
            if regions is None
            else regions
            for row, (regions, output, there) in enumerate(zip(found, parts, is_there, strict=True))
        ]

    def resize(self, image: NDArray[np.uint8]) -> ResizedImage:
        """Do what is done on the CPU before the pixels go to the device: uint8 [H, W, 3], not resized yet."""
        pixels = torch.from_numpy(np.array(image))  # a copy: decoded images may be read-only
        return ResizedImage(stored=(image.shape[0], image.shape[1]), pixels=page_locked(pixels, self._device))

    def _batch(self, images: Sequence[NDArray[np.uint8] | ResizedImage], resized: tuple[int, int]) -> Tensor:
        """Return float32 [B, 3, *padded]: normalised, resized, zeros to the right and below."""
        transform = self._transform
        multiple = transform.size_divisible
        least = [max(sides) for sides in zip(resized, self._pad_to, strict=True)]
        padded = [math.ceil(side / multiple) * multiple for side in least]
        batch = torch.zeros(len(images), 3, *padded, device=self._device).contiguous(memory_format=self._layout)
        mean, std = (
            constant(tuple(values), self._device)[:, None, None]
            for values in (transform.image_mean, transform.image_std)
        )
        for i, image in enumerate(images):
            ready = image if isinstance(image, ResizedImage) else self.resize(image)
            pixels = ready.pixels.to(self._device, non_blocking=True)
            normalised = (pixels.permute(2, 0, 1).float() / 255 - mean) / std  # as torchvision's transform
            batch[i, :, : resized[0], : resized[1]] = F.interpolate(
                normalised[None], size=resized, mode="bilinear", align_corners=False
            )[0]
        return batch

    def _feature_maps(self, batch: Tensor) -> OrderedDict[str, Tensor]:
        with autocast(self._device, self._detector.precision):
            maps = self._model.backbone(batch)
        return OrderedDict([("0", maps)]) if isinstance(maps, Tensor) else maps

    def _proposals(
        self, batch: Tensor, maps: Mapping[str, Tensor], resized: tuple[int, int], given: Sequence[Tensor | None]
    ) -> list[Tensor]:
        """Return each image's proposals [P, 4] in pixels of the resized image, most object-like first."""
        if all(boxes is not None for boxes in given):
            return [batch.new_zeros(0, 4)] * len(given)
        rpn = self._model.rpn
        objectness, deltas = self._anchor_outputs(list(maps.values()))
        image_list = ImageList(batch, [resized] * len(batch))
        # anchors take the dtype of the maps, and coordinates need float32
        anchors = rpn.anchor_generator(image_list, [level.float() for level in maps.values()])
        anchors_per_level = [level[0].numel() for level in objectness]
        objectness, deltas = concat_box_prediction_layers(objectness, deltas)
        proposals_xyxy = rpn.box_coder.decode(deltas, anchors).view(len(batch), -1, 4)
        kept, _ = rpn.filter_proposals(proposals_xyxy, objectness, image_list.image_sizes, anchors_per_level)
        return list(kept)

    def _pool_batch(
        self, batch: Tensor, maps: Mapping[str, Tensor], boxes_xyxy: Tensor
    ) -> tuple[Tensor, Tensor | None]:
        """Return the pooled boxes [B * P, channels, h, w] level by level, and the order that puts them back."""
        pool = self._model.roi_heads.box_roi_pool
        levels = [maps[name].float() for name in pool.featmap_names if name in maps]
        scales = [2.0 ** round(math.log2(level.shape[2] / batch.shape[2])) for level in levels]
        images = torch.arange(len(batch), device=self._device).repeat_interleave(boxes_xyxy.shape[1])
        rois = torch.cat([images[:, None].to(boxes_xyxy), boxes_xyxy.flatten(0, 1)], dim=1)
        size, sampling = pool.output_size, pool.sampling_ratio
        if len(levels) == 1:
            return roi_align(levels[0], rois, size, scales[0], sampling), None
        first, last = (-round(math.log2(scale)) for scale in (scales[0], scales[-1]))
        assign = LevelMapper(first, last, pool.canonical_scale, pool.canonical_level)
        return pool_levels(levels, scales, rois, assign([rois[:, 1:]]), size, sampling)

    def _batch_proposals(
        self, batch: Tensor, maps: Mapping[str, Tensor], resized: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """Return the proposals of each image, padded [B, P, 4], and which are there [B, P]; see `_proposals`."""
        rpn, levels = self._model.rpn, list(maps.values())
        objectness, deltas = self._anchor_outputs(levels)
        # the anchors of all images are the same
        (anchors,) = rpn.anchor_generator(ImageList(batch[:1], [resized]), [level.float() for level in levels])
        counts = [level[0].numel() for level in objectness]
        scores, codes = concat_box_prediction_layers(objectness, deltas)
        scores = scores.view(len(batch), -1)
        best = rpn._get_top_n_idx(scores, counts)  # [B, K], of each level
        boxes_xyxy = rpn.box_coder.decode_single(
            rows_of(codes.view(len(batch), -1, 4), best).flatten(0, 1), anchors[best].flatten(0, 1)
        ).view(*best.shape, 4)
        height, width = resized
        boxes_xyxy = torch.minimum(boxes_xyxy.clamp(min=0), constant((width, height, width, height), self._device))
        probs = scores.gather(1, best).sigmoid()
        is_large = (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2] >= rpn.min_size).all(dim=2)
        # Boxes of different levels do not overlap, as in torchvision's `batched_nms`.
        starts = constant(tuple(itertools.accumulate(counts)), self._device)
        level = torch.bucketize(best.float(), starts, right=True)
        apart = boxes_xyxy + (level * (max(resized) + 1.0))[..., None]
        keep, is_there = suppress_batch(
            apart, probs, is_large & (probs >= rpn.score_thresh), rpn.nms_thresh, rpn.post_nms_top_n()
        )
        return rows_of(boxes_xyxy, keep), is_there

    def _anchor_outputs(self, levels: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return each level's objectness [B, anchors, H, W] and box deltas [B, 4 * anchors, H, W], float32.

        The two last convolutions compute in float32: in bfloat16 many logits would be equal, and the order of the
        proposals chance.
        """
        head = self._model.rpn.head
        with autocast(self._device, self._detector.precision):
            hidden = [head.conv(level) for level in levels]
        hidden = [level.float() for level in hidden]
        return [head.cls_logits(level) for level in hidden], [head.bbox_pred(level) for level in hidden]

    def _box_head(self, batch: Tensor, maps: Mapping[str, Tensor], boxes_xyxy: list[Tensor]) -> _HeadOutputs:
        """Return what the box head says of the boxes [P, 4] of each image."""
        # The pooler infers its scales from the first images it sees and keeps them. From padded shapes, whose sides are
        # multiples of the strides, they are exact; a copy that knows none keeps an image apart from others, also from
        # those that another thread has in hand.
        pool = copy.copy(self._model.roi_heads.box_roi_pool)
        pool.scales = pool.map_levels = None
        maps_fp32 = {name: level.float() for name, level in maps.items()}  # else RoI coordinates lose up to 4 pixels
        output, deltas = self._describe(pool(maps_fp32, boxes_xyxy, [tuple(batch.shape[2:])] * len(batch)))
        return output._replace(regressed_xyxy=self._regressed(deltas, boxes_xyxy))

    def _regressed(self, deltas: Tensor, boxes_xyxy: list[Tensor]) -> Tensor | None:
        """Return each foreground class's refined box [R, C, 4], where they are needed."""
        if not self._selection.needs_regressed:
            return None
        decoded: Tensor = self._model.roi_heads.box_coder.decode(deltas, boxes_xyxy)
        return decoded.view(len(deltas), -1, 4)[:, 1:]

    def _describe(self, pooled: Tensor, order: Tensor | None = None) -> tuple[_HeadOutputs, Tensor]:
        """Return what the box head says of pooled boxes [R, channels, h, w], and the deltas [R, 4 * (C + 1)].

        order: in which to return them, where it is another one.
        """
        heads = self._model.roi_heads
        with autocast(self._device, self._detector.precision):
            features, last = self._fully_connected(pooled)
        features, last = features.float(), last.float()
        if order is not None:
            features, last = features[order], last[order]
        logits, deltas = heads.box_predictor(last)
        attribute_probs = self._attribute_head(last).softmax(dim=1) if self._attribute_head else None
        return _HeadOutputs(features, logits.softmax(dim=1), None, attribute_probs), deltas

    def _fully_connected(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Return the feature wanted and the head's output, both after their ReLU, [R, D]."""
        head = self._model.roi_heads.box_head
        if self._feature_layer() != "fc6":
            output = head(pooled)
            return output, output
        fc6 = F.relu(head.fc6(pooled.flatten(start_dim=1)))
        return fc6, F.relu(head.fc7(fc6))

    def _feature_layer(self) -> str:
        """Return the layer that features are taken from: a head without fc6 and fc7 has one, its output."""
        has_both = isinstance(self._model.roi_heads.box_head, TwoMLPHead)
        return self._detector.feature_layer if has_both else "output"

    def _regions(
        self,
        boxes_xyxy: Tensor,
        output: _HeadOutputs,
        resized: tuple[int, int],
        stored: tuple[int, int],
        given_xyxy: Tensor | None,
    ) -> Regions:
        regressed_xyxy = output.regressed_xyxy
        return assemble_regions(
            proposals_xyxy=scale_boxes(boxes_xyxy, resized, stored) if given_xyxy is None else given_xyxy,
            probs=output.probs,
            features=output.features,
            regressed_xyxy=None if regressed_xyxy is None else scale_boxes(regressed_xyxy, resized, stored),
            height=stored[0],
            width=stored[1],
            selection=self._selection,
            given=given_xyxy is not None,
            top_classes=self._detector.top_classes,
            attribute_probs=output.attribute_probs,
        )


def build(detector: DetectorSettings, selection: SelectionSettings) -> TorchvisionExtractor:
    """Build the extractor of a model of torchvision's; raise ExtractorError where weights or device are not there."""
    from vilbert.extractors.detectors.torchvision_models import load_model

    resolve_device(detector.device)  # before minutes of download
    model, class_names, facts = load_model(detector)
    return TorchvisionExtractor(
        model=model, class_names=class_names, facts=facts, detector=detector, selection=selection
    )
