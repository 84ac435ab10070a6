"""A converted Visual Genome detector as an extractor: one pass from pixels to regions, their features and attributes.

Shapes: B images, R regions of all images, P proposals of one, C object classes, D feature channels, A attributes.
`stored` is an image's (height, width) as decoded, `resized` the one that the network sees.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vilbert.extractors.assemble import assemble_regions
from vilbert.extractors.assemble_batch import BatchOutputs, assemble_batch, can_select_batch, rows_of, size_factors
from vilbert.extractors.batch import ResizedImage, common_resized_shape, stored_shape
from vilbert.extractors.boxes import clip_boxes, resize_given
from vilbert.extractors.detectors.visual_genome.backbone import fold_norms
from vilbert.extractors.detectors.visual_genome.conventions import Conventions, DetectorFile
from vilbert.extractors.detectors.visual_genome.detector_file import read_detector_file
from vilbert.extractors.detectors.visual_genome.geometry import clip, comparable, decode, last_pixel
from vilbert.extractors.detectors.visual_genome.heads import HeadOutputs, Res5Head
from vilbert.extractors.detectors.visual_genome.network import Network
from vilbert.extractors.detectors.visual_genome.preprocessing import Resizing, bgr_pixels, network_input, resizing
from vilbert.extractors.detectors.visual_genome.specs import RunSettings
from vilbert.extractors.device import autocast, convert_weights, page_locked, resolve_device, to_device
from vilbert.extractors.extractor import DetectorSettings, ExtractorError
from vilbert.extractors.preprocessing import Preprocessing
from vilbert.extractors.regions import Regions
from vilbert.extractors.selection import SelectionSettings, surviving_classes

ROIS_AT_ONCE = {"cpu": 256, "cuda": 1024}
"""By device: a pass of few regions is cheap on a CPU, and many launches on a GPU."""


class VisualGenomeExtractor:
    """A Faster R-CNN of `network.py` that implements `vilbert.extractors.extractor.Extractor`."""

    def __init__(
        self,
        *,
        file: DetectorFile,
        network: Network,
        run: RunSettings,
        detector: DetectorSettings,
        selection: SelectionSettings,
    ) -> None:
        """Take over the network, whose weights are loaded, and move it to the device that the settings name."""
        self._device = resolve_device(detector.device)
        fold_norms(network)
        reduced = self._device.type == "cuda" or detector.precision != "fp32"
        layout = torch.channels_last if reduced else torch.preserve_format
        self.network = network.eval().requires_grad_(False).to(self._device).to(memory_format=layout)
        parts = [network.backbone, network.pyramid, network.rpn.conv, network.head]
        convert_weights([part for part in parts if part is not None], self._device, detector.precision)
        self._layout = layout
        self._file = file
        self._conventions = network.conventions
        self._run = run
        self._detector = detector
        self._selection = selection
        self._c4 = isinstance(network.head, Res5Head)
        self._pad_to = (0, 0)

    @property
    def feature_dim(self) -> int:
        """D, the channels of a region's feature."""
        return int(self.network.feature_dim)

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class id; 0 is the background."""
        return ("background", *self._file.class_names)

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """Names by attribute id; empty where the detector knows no attributes."""
        return self._file.attribute_names

    def fingerprint(self) -> dict[str, object]:
        """Return, as JSON values, all that the regions depend on."""
        facts: dict[str, object] = {
            "extractor": self._file.detector,
            "weights_sha256": self._file.tensors_sha256,
            "source_sha256": self._file.source_sha256,
            "layout": self._file.layout,
            "preset": self._file.preset,
            "conventions": json.loads(json.dumps(asdict(self._conventions))),  # lists, as in a file
            "feature_layer": "res5" if self._c4 else self._detector.feature_layer,
            "precision": self._detector.precision,
            "top_classes": self._detector.top_classes,
            "selection": asdict(self._selection),
            "device": self._device.type,
        }
        changes = {name: value for name, value in asdict(self._run).items() if value and name != "rois_at_once"}
        if changes:
            facts["opts"] = [str(word) for pair in changes.items() for word in pair]
        return facts

    @property
    def preprocessing(self) -> Preprocessing:
        """How pixels become the network's input."""
        conventions = self._conventions
        return Preprocessing(
            mean=_rgb(conventions.pixel_mean),
            std=_rgb(conventions.pixel_std),
            short_side=conventions.min_size,
            long_side=conventions.max_size,
            pad_to=self._pad_to,
        )

    def with_preprocessing(self, changed: Preprocessing) -> VisualGenomeExtractor:
        """Return an extractor of the same network with other preprocessing."""
        other = copy.copy(self)
        other._pad_to = changed.pad_to
        other._conventions = replace(
            self._conventions,
            pixel_mean=_rgb(changed.mean),
            pixel_std=_rgb(changed.std),
            min_size=changed.short_side,
            max_size=changed.long_side,
        )
        return other

    def resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) to which an image of this size is resized."""
        return resizing(height, width, self._conventions)[:2]

    @torch.inference_mode()
    def extract(
        self, images: Sequence[NDArray[np.uint8] | ResizedImage], given_boxes: Sequence[NDArray[np.float32] | None]
    ) -> list[Regions]:
        """Return the regions of each image, as `Extractor.extract` says."""
        if not images:
            return []
        resized = common_resized_shape(images, given_boxes, self.resized_shape)
        stored = [stored_shape(image) for image in images]
        sizes = [resizing(*shape, self._conventions) for shape in stored]
        given = [None if boxes is None else torch.tensor(boxes, device=self._device) for boxes in given_boxes]
        levels = self._levels(images, resized)
        if can_select_batch(self._device, given_boxes, self._selection):
            return self._regions_of_batch(levels, sizes, stored)
        proposals = iter(self._proposals(levels, sizes, [row for row, boxes in enumerate(given) if boxes is None]))
        rois = [
            next(proposals) if boxes is None else resize_given(boxes, shape, resized)
            for boxes, shape in zip(given, stored, strict=True)
        ]
        outputs = self._describe(levels, rois).split([len(boxes) for boxes in rois])
        return [self._regions(*parts) for parts in zip(rois, outputs, sizes, stored, given, strict=True)]

    def _regions_of_batch(
        self, levels: list[Tensor], sizes: list[Resizing], stored: list[tuple[int, int]]
    ) -> list[Regions]:
        """Propose, describe and select the regions of all images at once, as a GPU does it."""
        hidden = self._hidden(levels)
        scales = [size.scale for size in sizes]
        resized = sizes[0][:2]
        rois, is_there = self.network.batch_proposals(hidden, resized, self._padded(resized), scales)  # [B, P, 4]
        every = self._describe(levels, list(rois))
        output = HeadOutputs(*(values.view(*rois.shape[:2], *values.shape[1:]) for values in every))
        conventions = self._conventions
        found = assemble_batch(
            BatchOutputs(
                proposals_xyxy=self._batch_to_stored(rois, sizes, stored),
                is_there=is_there,
                probs=output.logits.softmax(dim=2),
                features=output.features,
                shapes=stored,
                refine=partial(self._refine, rois, output.deltas, sizes, stored),
                attributes=None if self.network.attributes is None else partial(self._attributes_of_kept, output),
                comparable=lambda boxes_xyxy: comparable(boxes_xyxy, conventions),
                is_named_by_surviving_class=conventions.label == "unsuppressed",
            ),
            self._selection,
            self._detector.top_classes,
        )
        return [
            self._regions(
                rois[row][is_there[row]],
                HeadOutputs(*(values[row][is_there[row]] for values in output)),
                sizes[row],
                stored[row],
                None,
            )
            if regions is None
            else regions
            for row, regions in enumerate(found)
        ]

    def resize(self, image: NDArray[np.uint8]) -> ResizedImage:
        """Do what is done on the CPU before the pixels go to the device: uint8 [height, width, 3], BGR."""
        pixels = page_locked(bgr_pixels(image, self._conventions), self._device)
        return ResizedImage(stored=(image.shape[0], image.shape[1]), pixels=pixels)

    def _levels(self, images: Sequence[NDArray[np.uint8] | ResizedImage], resized: tuple[int, int]) -> list[Tensor]:
        """Return the feature maps of the images, resized and padded."""
        padded = self._padded(resized)
        batch = torch.zeros(len(images), 3, *padded, device=self._device).contiguous(memory_format=self._layout)
        for row, image in enumerate(images):
            ready = image if isinstance(image, ResizedImage) else self.resize(image)
            batch[row, :, : resized[0], : resized[1]] = network_input(
                ready.pixels.to(self._device, non_blocking=True), ready.stored, self._conventions
            )
        with autocast(self._device, self._detector.precision):
            levels: list[Tensor] = self.network.levels(batch)
        return levels

    def _hidden(self, levels: list[Tensor]) -> list[Tensor]:
        """Return the proposal head's hidden maps, float32: in bfloat16 many logits would be equal, and order chance."""
        with autocast(self._device, self._detector.precision):
            hidden = [self.network.rpn.hidden(level) for level in levels]
        return [level.float() for level in hidden]

    def _padded(self, resized: tuple[int, int]) -> tuple[int, int]:
        """Return the (height, width) of the network's input."""
        multiple = self._conventions.pad_to
        height, width = (
            math.ceil(max(sides) / multiple) * multiple for sides in zip(resized, self._pad_to, strict=True)
        )
        return height, width

    def _proposals(self, levels: list[Tensor], sizes: list[Resizing], rows: list[int]) -> list[Tensor]:
        """Return the proposals [P, 4] of the images in these rows, in pixels of the resized image."""
        if not rows:
            return []
        shapes = [sizes[row][:2] for row in rows]
        proposals: list[Tensor] = self.network.proposals(
            self._hidden([level[rows] for level in levels]),
            shapes,
            self._padded(shapes[0]),
            [sizes[row].scale for row in rows],
        )
        return proposals

    def _describe(self, levels: list[Tensor], rois: Sequence[Tensor]) -> HeadOutputs:
        """Return what the box head says of the regions [P, 4] of each image, R in all.

        The regions of all images go through the head together, in chunks so that memory is bounded.
        """
        counts = [len(boxes) for boxes in rois]
        rows = to_device(torch.repeat_interleave(torch.tensor(counts)), self._device)
        every = torch.cat([rows[:, None].float(), torch.cat(list(rois)).float()], dim=1)
        chunks = []
        for chunk in torch.split(every, self._run.rois_at_once or ROIS_AT_ONCE[self._device.type]):
            pooled = self.network.pool(levels, chunk)
            if self._layout == torch.channels_last:
                pooled = pooled.contiguous(memory_format=torch.channels_last)
            with autocast(self._device, self._detector.precision):
                features, last = self.network.describe(pooled, self._detector.feature_layer)
            chunks.append(self.network.predict(features, last))
        return HeadOutputs(*(torch.cat(parts) for parts in zip(*chunks, strict=True)))

    def _regions(
        self,
        rois: Tensor,
        output: HeadOutputs,
        size: Resizing,
        stored: tuple[int, int],
        given_xyxy: Tensor | None,
    ) -> Regions:
        """Select and describe the regions of one image."""
        conventions, selection = self._conventions, self._selection
        probs = output.logits.softmax(dim=1)
        proposals = self._to_stored(rois, size, stored) if given_xyxy is None else given_xyxy
        regressed = None
        if selection.needs_regressed:
            regressed = self._regressed(rois, output.deltas, size, stored)
        compared = comparable(clip_boxes(proposals, *stored), conventions)
        labels = None
        if conventions.label == "unsuppressed" and given_xyxy is None:
            labels = surviving_classes(compared, probs, selection)
        return assemble_regions(
            proposals_xyxy=proposals,
            probs=probs,
            features=output.features,
            regressed_xyxy=regressed,
            height=stored[0],
            width=stored[1],
            selection=selection,
            given=given_xyxy is not None,
            top_classes=self._detector.top_classes,
            attribute_probs=self._attributes(output, probs, labels),
            compared_xyxy=compared,
            labels=labels,
        )

    def _attributes(self, output: HeadOutputs, probs: Tensor, labels: Tensor | None) -> Tensor | None:
        """Return the attributes' probabilities [P, A]."""
        if self.network.attributes is None:
            return None
        classes = output.logits.argmax(dim=1)
        if self._conventions.attribute_class == "label":
            classes = 1 + (probs[:, 1:].argmax(dim=1) if labels is None else labels)
        attributes: Tensor = self.network.attributes(output.last, classes)
        return attributes

    def _attributes_of_kept(self, output: HeadOutputs, keep: Tensor, labels: Tensor) -> Tensor:
        """Return the attributes' probabilities [B, N, A] of kept proposals [B, N], named by classes [B, N]."""
        classes = 1 + labels
        if self._conventions.attribute_class == "logits":
            classes = rows_of(output.logits, keep).argmax(dim=2)
        last = rows_of(output.last, keep).flatten(0, 1)
        attributes: Tensor = self.network.attributes(last, classes.flatten()).unflatten(0, keep.shape)  # type: ignore[misc]
        return attributes

    def _refine(
        self,
        rois: Tensor,
        deltas: Tensor,
        sizes: Sequence[Resizing],
        stored: Sequence[tuple[int, int]],
        keep: Tensor,
        classes: Tensor,
    ) -> Tensor:
        """Return the box [B, N, 4] of one class of each kept proposal, in pixels of the stored image."""
        conventions, weights = self._conventions, self._conventions.box_weights
        deltas, rois = rows_of(deltas, keep, classes), rows_of(rois, keep)
        if conventions.boxes == "caffe":  # as `_regressed`
            decoded = decode(deltas, self._batch_to_stored(rois, sizes, stored), conventions, weights)
            one = last_pixel(conventions)
            limits = [(size.height / size.scale - one, size.width / size.scale - one) for size in sizes]
            return torch.minimum(decoded.clamp(min=0), size_factors(limits, rois.device))
        decoded = clip(decode(deltas, rois, conventions, weights), *sizes[0][:2], conventions)
        return self._batch_to_stored(decoded, sizes, stored)

    def _batch_to_stored(
        self, boxes_xyxy: Tensor, sizes: Sequence[Resizing], stored: Sequence[tuple[int, int]]
    ) -> Tensor:
        """Return boxes [B, N, 4] of the resized images in pixels of the stored ones."""
        if self._conventions.scale_back == "uniform":
            return boxes_xyxy / size_factors([(size.scale, size.scale) for size in sizes], boxes_xyxy.device)
        pairs = zip(sizes, stored, strict=True)
        ratios = [(height / size.height, width / size.width) for size, (height, width) in pairs]
        return boxes_xyxy * size_factors(ratios, boxes_xyxy.device)

    def _regressed(self, rois: Tensor, deltas: Tensor, size: Resizing, stored: tuple[int, int]) -> Tensor:
        """Return each object class's box [P, C, 4] in pixels of the stored image."""
        conventions = self._conventions
        if conventions.boxes == "caffe":  # decoded in the stored image, whose last pixel is another one
            boxes = self._to_stored(rois, size, stored)
            decoded = decode(deltas, boxes[:, None], conventions, conventions.box_weights)
            return clip(decoded, size.height / size.scale, size.width / size.scale, conventions)
        decoded = decode(deltas, rois[:, None], conventions, conventions.box_weights)
        return self._to_stored(clip(decoded, size.height, size.width, conventions), size, stored)

    def _to_stored(self, boxes_xyxy: Tensor, size: Resizing, stored: tuple[int, int]) -> Tensor:
        """Return boxes [..., 4] of the resized image in pixels of the stored one."""
        if self._conventions.scale_back == "uniform":
            return boxes_xyxy / size.scale
        ratios = [stored[1] / size.width, stored[0] / size.height]
        return boxes_xyxy * boxes_xyxy.new_tensor(ratios * 2)


def _rgb(bgr: Sequence[float]) -> tuple[float, float, float]:
    """Return values of blue, green and red in the other order, or the reverse."""
    return bgr[2], bgr[1], bgr[0]


def build(detector: DetectorSettings, selection: SelectionSettings) -> VisualGenomeExtractor:
    """Build the extractor of a converted detector; raise ExtractorError where the file is not one of this detector."""
    from vilbert.extractors.detectors.registry import own_settings

    resolve_device(detector.device)
    if detector.weights is None or detector.weights == "random":
        raise ExtractorError(
            f"--detector {detector.detector} needs --weights FILE: convert a published checkpoint with `vilbert "
            "convert-detector CHECKPOINT --output FILE` (docs/detectors.md)"
        )
    run = own_settings(RunSettings, detector.opts)
    file, network = read_detector_file(
        detector.weights, detector.detector, lambda conventions: _with_run_settings(conventions, run)
    )
    return VisualGenomeExtractor(file=file, network=network, run=run, detector=detector, selection=selection)


def _with_run_settings(conventions: Conventions, run: RunSettings) -> Conventions:
    return replace(
        conventions,
        min_size=run.min_size or conventions.min_size,
        max_size=run.max_size or conventions.max_size,
        rpn_post_nms=run.proposals or conventions.rpn_post_nms,
    )
