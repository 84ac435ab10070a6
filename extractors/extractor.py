"""The one interface of all detectors, and the function that builds a detector from its settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vilbert.extractors.detectors.registry import add_encoder, find_detector
from vilbert.extractors.regions import Regions
from vilbert.extractors.settings import DetectorSettings as DetectorSettings
from vilbert.extractors.settings import ExtractorSettings as ExtractorSettings
from vilbert.plugins import PluginError


class ExtractorError(Exception):
    """A detector that cannot be built or run; the message says what, where and what to do."""


class Extractor(Protocol):
    """A detector that is ready: images and optional given boxes in, `Regions` out, and a fingerprint.

    An image's regions do not depend on the other images of the batch. docs/extending/detector.md implements one. A
    detector that names objects but has no softmax over them has an attribute `soft_labels = False`, and leaves
    `class_ids` and `class_probs` out of its regions. One that has features of its own boxes only, and not of given
    ones, has an attribute `given_features = False`. One that resizes images on the CPU may have a method
    `resize(image: NDArray[np.uint8]) -> ResizedImage` (`batch.py`): `vilbert extract` calls it in the threads that
    decode, and passes the results to `extract` in place of the images.
    """

    @property
    def feature_dim(self) -> int:
        """D, the number of channels of a region's feature."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names by class id; 0 is the background. Empty if regions have no objects."""

    @property
    def attribute_names(self) -> tuple[str, ...]:
        """Names by attribute id; empty if the detector has no attributes."""

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
