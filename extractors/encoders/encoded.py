"""Any detector's regions with features from an image encoder, in place of the detector's or beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from vilbert.extractors.encoders.cells import to_float16
from vilbert.extractors.encoders.feature_map import ROI_SIZE, SAMPLES, pool_boxes
from vilbert.extractors.encoders.vision_encoder import VisionEncoder
from vilbert.extractors.extractor import DetectorSettings, Extractor
from vilbert.extractors.regions import Regions


class EncodedExtractor:
    """A detector and an encoder that pools the features of its boxes; implements `Extractor`."""

    def __init__(self, detector: Extractor, settings: DetectorSettings) -> None:
        """Build the encoder that the settings name.

        Raises:
            ExtractorError: The encoder is not there, or its settings do not fit.
        """
        assert settings.encoder is not None
        self._detector = detector
        self._encoder = VisionEncoder(
            settings.encoder, option="--encoder", size=settings.encoder_size, detector=settings
        )
        self._feature = settings.encoder_feature
        self.class_names = detector.class_names
        self.attribute_names = detector.attribute_names
        self.soft_labels = bool(getattr(detector, "soft_labels", detector.class_names))

    @property
    def feature_dim(self) -> int:
        """D: the encoder's channels, after the detector's if they are concatenated."""
        return self._encoder.feature_dim + (self._detector.feature_dim if self._feature == "concat" else 0)

    def fingerprint(self) -> dict[str, object]:
        """Return the detector's facts, and those of the encoder under `encoder`."""
        pooling = {"feature": self._feature, "roi_size": ROI_SIZE, "sampling_ratio": SAMPLES}
        return {**self._detector.fingerprint(), "encoder": {**self._encoder.describe(), **pooling}}

    def resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the detector's resized shape; the encoder has one shape for all images."""
        return self._detector.resized_shape(height, width)

    @torch.inference_mode()
    def extract(
        self, images: Sequence[NDArray[np.uint8]], given_boxes: Sequence[NDArray[np.float32] | None]
    ) -> list[Regions]:
        """Return the detector's regions with the features that the settings ask for."""
        found = self._detector.extract(images, given_boxes)
        if not any(len(regions) for regions in found):
            return list(found)
        maps = self._encoder(images)
        boxes = [torch.tensor(regions.boxes, device=maps.device) for regions in found]
        shapes = [(regions.height, regions.width) for regions in found]
        pooled = [to_float16(rows) for rows in pool_boxes(maps, boxes, shapes, self._encoder.size)]
        if self._feature == "concat":
            pooled = [
                np.concatenate([regions.features, rows], axis=1) for regions, rows in zip(found, pooled, strict=True)
            ]
        return [replace(regions, features=rows) for regions, rows in zip(found, pooled, strict=True)]
