"""Photographs to a detector's input by the image processor of its folder, in batches of one resized shape."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vilbert.extractors.extractor import ExtractorError
from vilbert.extractors.pretrained import PretrainedFolder, load_processor, plain_values

MIN_SIDE = 32
"""Pixels that a resized side has at least: the stride of the networks. A thread-like image would vanish."""
MAX_SIDE = 8192
"""Pixels that a resized side has at most; a larger size in a preprocessor_config.json is a mistake."""
SHAPES_REMEMBERED = 4096


class ImageInputs:
    """The image processor of a detector's folder."""

    def __init__(self, folder: PretrainedFolder, *, fixed: bool) -> None:
        """Read preprocessor_config.json.

        Args:
            folder: The model's folder.
            fixed: Whether the model's position embeddings allow one size only.

        Raises:
            ExtractorError: It is not there, damaged, or of a kind that does not work on tensors.
        """
        from transformers import AutoImageProcessor

        self._processor: Any = load_processor(AutoImageProcessor, folder)
        self._fixed = fixed
        self.resized_shape = lru_cache(maxsize=SHAPES_REMEMBERED)(self._resized_shape)
        try:
            shape = self.resized_shape(480, 640)
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            raise ExtractorError(f"{folder.name}: preprocessor_config.json cannot be used: {error}") from error
        if max(shape) > MAX_SIDE:
            raise ExtractorError(f"{folder.name}: preprocessor_config.json resizes photographs to {list(shape)} pixels")

    def describe(self) -> dict[str, object]:
        """Return the settings of the image processor, for the fingerprint."""
        return {**plain_values(self._processor), "min_side": MIN_SIDE}

    def _resized_shape(self, height: int, width: int) -> tuple[int, int]:
        """Return the (height, width) to which an image is resized: the processor's own arithmetic, without pixels."""
        processor = self._processor
        if not processor.do_resize:
            return height, width
        if processor.size.height and processor.size.width:
            return processor.size.height, processor.size.width
        try:
            pixels = torch.empty(3, height, width, dtype=torch.uint8, device="meta")
            shape = processor.resize(pixels, size=processor.size, resample=processor.resample).shape[-2:]
        except ValueError:  # a side of 0 pixels
            longest = processor.size.longest_edge or processor.size.max_height or MIN_SIDE
            shape = (longest, MIN_SIDE) if height > width else (MIN_SIDE, longest)
        return max(MIN_SIDE, int(shape[0])), max(MIN_SIDE, int(shape[1]))

    def batch(self, images: Sequence[NDArray[np.uint8]], device: torch.device) -> dict[str, Tensor]:
        """Return the model's arguments for RGB images [H, W, 3] of one resized shape: pixels, and their mask if any."""
        size = {}
        if self._processor.do_resize and not self._fixed:
            height, width = self.resized_shape(*images[0].shape[:2])
            size = {"size": {"height": height, "width": width}}
        inputs = self._processor(
            images=[np.ascontiguousarray(image) for image in images],
            input_data_format="channels_last",  # an image 3 pixels wide would be taken for channels first
            return_tensors="pt",
            device=str(device),
            **size,
        )
        return {key: value.to(device) for key, value in inputs.items() if key in ("pixel_values", "pixel_mask")}
