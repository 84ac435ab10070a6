"""Photographs to a detector's input by the image processor of its folder, in batches of one resized shape."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vilbert.extractors.extractor import ExtractorError
from vilbert.extractors.preprocessing import Channels, Preprocessing
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
        self._pad_to = (0, 0)
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

    @property
    def preprocessing(self) -> Preprocessing:
        """What the processor does, for pixels from 0 to 255."""
        processor, size = self._processor, self._processor.size
        scale = self._scale
        mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
        short, long, square = size.shortest_edge or 0, size.longest_edge or MAX_SIDE, False
        if size.height and size.height == size.width:
            short, long, square = size.height, size.width, True
        changeable = processor.do_resize and not self._fixed
        return Preprocessing(
            mean=_channels(mean, 1 / scale),
            std=_channels(std, 1 / scale),
            short_side=short if changeable else 0,
            long_side=long,
            square=square,
        )

    @property
    def _scale(self) -> float:
        return float(self._processor.rescale_factor) if self._processor.do_rescale else 1.0

    def with_preprocessing(self, changed: Preprocessing) -> ImageInputs:
        """Return the same with other preprocessing."""
        other, own = copy.copy(self), self.preprocessing
        other._processor = processor = copy.copy(self._processor)
        other._pad_to = changed.pad_to
        processor.do_normalize = True
        processor.image_mean = _channels(changed.mean, self._scale)
        processor.image_std = _channels(changed.std, self._scale)
        if (changed.short_side, changed.long_side, changed.square) != (own.short_side, own.long_side, own.square):
            sides = {"shortest_edge": changed.short_side, "longest_edge": changed.long_side}
            square = {"height": changed.short_side, "width": changed.short_side}
            processor.size = type(processor.size)(**square if changed.square else sides)
        other.resized_shape = lru_cache(maxsize=SHAPES_REMEMBERED)(other._resized_shape)
        return other

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
        return {key: self._padded(inputs[key].to(device)) for key in ("pixel_values", "pixel_mask") if key in inputs}

    def _padded(self, planes: Tensor) -> Tensor:
        """Return pixels or their mask [..., H, W] with the zeros to the right and below that are asked for."""
        height, width = (max(0, wanted - side) for wanted, side in zip(self._pad_to, planes.shape[-2:], strict=True))
        return torch.nn.functional.pad(planes, (0, width, 0, height)) if height or width else planes


def _channels(values: float | Sequence[float], factor: float) -> Channels:
    """Return three values times a factor; a single one is that of all channels."""
    red, green, blue = np.broadcast_to(np.array(values, np.float64) * factor, 3).tolist()
    return red, green, blue
