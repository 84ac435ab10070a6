"""The image encoders of transformers as feature maps: DINOv2, DINOv3, SigLIP, CLIP, ViT, ConvNeXt, ResNet, ...

The map is made of the last hidden states; tokens that stand before the patches (class token, registers) are left out.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode

from vilbert.extractors.device import autocast, resolve_device
from vilbert.extractors.encoders.feature_map import to_squares
from vilbert.extractors.extractor import DetectorSettings, ExtractorError
from vilbert.extractors.pretrained import load_pretrained, load_processor, open_pretrained, plain_values

TOWERS = {
    "clip": "CLIPVisionModel",
    "clip_vision_model": "CLIPVisionModel",
    "siglip": "SiglipVisionModel",
    "siglip_vision_model": "SiglipVisionModel",
    "siglip2": "Siglip2VisionModel",
    "siglip2_vision_model": "Siglip2VisionModel",
    **dict.fromkeys(("beit", "convnext", "convnextv2", "deit", "dinov2", "dinov2_with_registers"), "AutoModel"),
    **dict.fromkeys(("dinov3_convnext", "dinov3_vit", "regnet", "resnet", "swin", "swinv2", "vit"), "AutoModel"),
}
"""The class that reads the image part of a model, by `model_type` of config.json."""

_RESAMPLE = {0: InterpolationMode.NEAREST, 2: InterpolationMode.BILINEAR, 3: InterpolationMode.BICUBIC}
_DEFAULT_SIZE = 224


class VisionEncoder:
    """An image encoder of transformers that implements `FeatureMap`."""

    def __init__(self, name: str, *, option: str, size: int | None, detector: DetectorSettings) -> None:
        """Load the encoder onto the device of the settings.

        Args:
            name: A folder or hub name.
            option: The option that names it, for messages.
            size: S; None for the size of its preprocessing.
            detector: Device and precision.

        Raises:
            ExtractorError: The encoder is missing, or is another kind of model, or the size is not a multiple of its
                patches.
        """
        import transformers
        from transformers import AutoImageProcessor

        self.device = resolve_device(detector.device)
        self._precision = detector.precision
        self._folder = open_pretrained(name, option=option)
        tower = TOWERS.get(self._folder.model_type)
        if tower is None:
            raise ExtractorError(
                f"{option} {name}: model_type {self._folder.model_type!r} is not a supported image encoder; "
                f"supported are {', '.join(TOWERS)}"
            )
        processor: Any = load_processor(AutoImageProcessor, self._folder)
        self._pixels = {
            "mean": [float(value) for value in processor.image_mean],
            "std": [float(value) for value in processor.image_std],
            "interpolation": _RESAMPLE.get(int(processor.resample), InterpolationMode.BICUBIC),
        }
        self._model = load_pretrained(getattr(transformers, tower), self._folder).to(self.device)
        self._config = self._model.config
        patch = getattr(self._config, "patch_size", None)
        self._patch: int = patch if isinstance(patch, int) else 1
        self.size: int = size or _trained_size(processor, self._config, self._patch)
        if self.size % self._patch:
            lower = self.size // self._patch * self._patch
            raise ExtractorError(
                f"{option} {name}: its patches have {self._patch} pixels and --opts size {self.size} is not a "
                "multiple; "
                f"give {lower or self._patch} or {lower + self._patch}"
            )
        self._arguments: dict[str, Any] = {}
        if "interpolate_pos_encoding" in inspect.signature(self._model.forward).parameters:
            self._arguments["interpolate_pos_encoding"] = self.size != getattr(self._config, "image_size", None)
        with torch.inference_mode():
            self.feature_dim = int(self([np.zeros((8, 8, 3), np.uint8)]).shape[1])

    def describe(self) -> dict[str, object]:
        """Return all that the map depends on."""
        return {
            "model_type": self._folder.model_type,
            "weights_sha256": self._folder.weights_sha256,
            "config": plain_values(self._config),
            "size": self.size,
            **{name: getattr(value, "value", value) for name, value in self._pixels.items()},
            "precision": self._precision,
            "transformers": version("transformers"),
            "torchvision": version("torchvision"),
        }

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Return the maps of images, as `FeatureMap` says."""
        pixels = to_squares(images, self.size, device=self.device, **self._pixels)
        inputs = (
            self._patches(pixels)
            if self._model.__class__.__name__ == "Siglip2VisionModel"
            else {"pixel_values": pixels}
        )
        try:
            with autocast(self.device, self._precision):
                hidden = self._model(**inputs, **self._arguments).last_hidden_state.float()
        except ValueError as error:  # a model whose position embeddings allow one size
            raise ExtractorError(f"{self._folder.name}: cannot encode {self.size} pixels: {error}") from error
        return hidden if hidden.ndim == 4 else self._to_map(hidden)

    def _to_map(self, hidden: Tensor) -> Tensor:
        """Return tokens [B, T, D] as a map: the patches are the last ones, row by row."""
        side = self.size // self._patch
        if side * side > hidden.shape[1]:  # Swin merges patches
            side = math.isqrt(hidden.shape[1])
        patches = hidden[:, -side * side :].transpose(1, 2)
        return patches.reshape(len(hidden), -1, side, side)

    def _patches(self, pixels: Tensor) -> dict[str, Tensor]:
        """Return what SigLIP 2 takes: patches [B, T, patch * patch * 3] and the map's shape."""
        side, patch = self.size // self._patch, self._patch
        parts = pixels.reshape(-1, 3, side, patch, side, patch)  # [B, 3, rows, y, columns, x]
        return {
            "pixel_values": parts.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2),
            "pixel_attention_mask": torch.ones(len(pixels), side * side, dtype=torch.int64, device=self.device),
            "spatial_shapes": torch.tensor([[side, side]] * len(pixels), device=self.device),
        }


def _trained_size(processor: Any, config: Any, patch: int) -> int:
    """Return the side of the square at which the encoder's published preprocessing ends."""
    named = [
        getattr(processor, "crop_size", None) if getattr(processor, "do_center_crop", None) else None,
        processor.size,
    ]
    sides = [side for size in named if size for side in (size.height, size.shortest_edge) if side]
    if getattr(processor, "max_num_patches", None):
        sides = [patch * math.isqrt(processor.max_num_patches)]
    image_size = getattr(config, "image_size", None)
    size = next(iter(sides), image_size if isinstance(image_size, int) else _DEFAULT_SIZE)
    return int(size) // patch * patch
