"""Patches or grid cells as regions: an image without a detector, for all stages after extraction.

Every image gives the same number of regions, row by row from the top left; a region's box is its cell in pixels of the
image. There are no classes, so pre-training predicts the features of masked regions.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from vilbert.extractors.batch import common_resized_shape
from vilbert.extractors.boxes import clip_boxes
from vilbert.extractors.detectors.registry import own_settings
from vilbert.extractors.encoders.feature_map import FeatureMap, pool_boxes
from vilbert.extractors.encoders.spec import GridSettings, VitSettings
from vilbert.extractors.encoders.torchvision_map import TorchvisionMap
from vilbert.extractors.encoders.vision_encoder import VisionEncoder
from vilbert.extractors.extractor import DetectorSettings, ExtractorError
from vilbert.extractors.regions import Regions
from vilbert.extractors.selection import SelectionSettings
from vilbert.extractors.weights import SUFFIXES


class CellsExtractor:
    """An encoder whose map's cells are the regions; implements `vilbert.extractors.extractor.Extractor`."""

    class_names: tuple[str, ...] = ()
    attribute_names: tuple[str, ...] = ()
    soft_labels = False

    def __init__(self, encoder: FeatureMap, *, name: str, cells: int | None, opts: Sequence[str]) -> None:
        """Take an encoder over.

        name: of the detector, for the fingerprint. cells: regions per side; None: as many as the map has.
        """
        self._encoder = encoder
        self._name = name
        self._cells = cells
        self._opts = list(opts)

    @property
    def feature_dim(self) -> int:
        """D."""
        return self._encoder.feature_dim

    def fingerprint(self) -> dict[str, object]:
        """Return, as JSON values, all that the regions depend on."""
        facts: dict[str, object] = {"extractor": self._name, **self._encoder.describe(), "cells": self._cells}
        return {**facts, "device": self._encoder.device.type, **({"opts": self._opts} if self._opts else {})}

    def resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the square to which every image is resized."""
        return self._encoder.size, self._encoder.size

    @torch.inference_mode()
    def extract(
        self, images: Sequence[NDArray[np.uint8]], given_boxes: Sequence[NDArray[np.float32] | None]
    ) -> list[Regions]:
        """Return the cells of each image, or its given boxes with features pooled by RoIAlign."""
        if not images:
            return []
        common_resized_shape(images, given_boxes, self.resized_shape)
        maps = self._encoder(images)
        shapes = [(image.shape[0], image.shape[1]) for image in images]
        boxes = [
            cell_boxes(self._cells or maps.shape[-1], *shape)
            if given is None
            else clip_boxes(torch.tensor(given, dtype=torch.float32), *shape)
            for given, shape in zip(given_boxes, shapes, strict=True)
        ]
        cells = F.adaptive_avg_pool2d(maps, self._cells) if self._cells else maps
        given_xyxy = [
            (box[:0] if given is None else box).to(maps.device) for box, given in zip(boxes, given_boxes, strict=True)
        ]
        pooled = pool_boxes(maps, given_xyxy, shapes, self._encoder.size)
        features = [cells[row].flatten(1).T if given is None else pooled[row] for row, given in enumerate(given_boxes)]
        return [
            Regions(boxes=box.numpy(), features=to_float16(feature), width=shape[1], height=shape[0])
            for box, feature, shape in zip(boxes, features, shapes, strict=True)
        ]


def cell_boxes(cells: int, height: int, width: int) -> Tensor:
    """Return the boxes of a grid, float32 [cells * cells, 4], xyxy in pixels, row by row."""
    x = torch.arange(cells + 1, dtype=torch.float64) / cells * width
    y = torch.arange(cells + 1, dtype=torch.float64) / cells * height
    top, left = torch.meshgrid(torch.arange(cells), torch.arange(cells), indexing="ij")
    return torch.stack([x[left], y[top], x[left + 1], y[top + 1]], dim=-1).flatten(0, 1).float()


def to_float16(features: Tensor) -> NDArray[np.float16]:
    """Return features [N, D] on the CPU; ValueError where one is beyond float16."""
    half = features.to(torch.float16)
    if not bool(half.isfinite().all()):
        raise ValueError("the encoder's features are not finite in float16")
    return half.contiguous().cpu().numpy()


def build_vit(detector: DetectorSettings, selection: SelectionSettings) -> CellsExtractor:
    """Build `--detector vit`; raise ExtractorError where the encoder is not there."""
    _refuse_selection(detector, selection)
    assert detector.weights is not None  # DetectorSettings sees to it
    settings = own_settings(VitSettings, detector.opts)
    encoder = VisionEncoder(detector.weights, option="--weights", size=settings.size, detector=detector)
    return CellsExtractor(encoder, name="vit", cells=settings.cells, opts=detector.opts)


def build_grid(detector: DetectorSettings, selection: SelectionSettings) -> CellsExtractor:
    """Build `--detector grid`; raise ExtractorError where the network is not there."""
    _refuse_selection(detector, selection)
    settings = own_settings(GridSettings, detector.opts)
    weights = detector.weights
    encoder: FeatureMap
    if weights is None or weights == "random" or weights.endswith(SUFFIXES):
        encoder = TorchvisionMap(settings.backbone, size=settings.size, detector=detector)
    else:
        encoder = VisionEncoder(weights, option="--weights", size=settings.size, detector=detector)
    return CellsExtractor(encoder, name="grid", cells=settings.cells, opts=detector.opts)


def _refuse_selection(detector: DetectorSettings, selection: SelectionSettings) -> None:
    if selection != SelectionSettings():
        raise ExtractorError(
            f"--detector {detector.detector} keeps all cells: --boxes, --selection, --confidence, --nms and "
            "--saved-box have no effect; leave them out, and set the number of cells per side with --opts cells"
        )
