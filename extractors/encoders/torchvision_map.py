"""ResNets of torchvision as feature maps: the output of the last block, [B, 512 or 2048, S / 32, S / 32]."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.models import get_model_builder, get_model_weights
from torchvision.transforms.v2 import InterpolationMode

from vilbert.extractors.detectors.torchvision_models import load_state, published_file
from vilbert.extractors.device import autocast, resolve_device
from vilbert.extractors.encoders.feature_map import to_squares
from vilbert.extractors.extractor import DetectorSettings
from vilbert.extractors.weights import hash_tensors, load_weights

_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class TorchvisionMap:
    """A ResNet that implements `vilbert.extractors.encoders.feature_map.FeatureMap`."""

    def __init__(self, backbone: str, *, size: int, detector: DetectorSettings) -> None:
        """Load the network onto the device of the settings.

        Args:
            backbone: "resnet18" to "resnet152".
            size: S.
            detector: Weights (a file, None for torchvision's, "random"), seed, device, precision.

        Raises:
            ExtractorError: The weights are not there, or are another network's.
        """
        self.device = resolve_device(detector.device)
        self.size = size
        self._precision = detector.precision
        self._backbone = backbone
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(detector.seed)
            model = get_model_builder(backbone)(weights=None)
        if detector.weights == "random":
            self._sha256 = hash_tensors(model.state_dict())
        else:
            url = get_model_weights(backbone).DEFAULT.url
            path = Path(detector.weights) if detector.weights else published_file(url, f"--opts backbone {backbone}")
            state, self._sha256 = load_weights(path)
            load_state(model, state, path)
        self.feature_dim = int(model.fc.in_features)
        self._body = nn.Sequential(*list(model.children())[:-2]).eval().requires_grad_(False).to(self.device)

    def describe(self) -> dict[str, object]:
        """Return all that the map depends on."""
        return {
            "model": self._backbone,
            "weights_sha256": self._sha256,
            "size": self.size,
            "mean": list(_MEAN),
            "std": list(_STD),
            "interpolation": InterpolationMode.BILINEAR.value,
            "precision": self._precision,
            "torchvision": version("torchvision"),
        }

    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Return the maps of images, as `FeatureMap` says."""
        pixels = to_squares(
            images, self.size, mean=_MEAN, std=_STD, interpolation=InterpolationMode.BILINEAR, device=self.device
        )
        with autocast(self.device, self._precision):
            maps: Tensor = self._body(pixels)
        return maps.float()
