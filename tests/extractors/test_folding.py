"""A folded network computes what it computed before, up to rounding."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from vilbert.extractors.detectors.torchvision_models import load_model, randomise
from vilbert.extractors.extractor import DetectorSettings
from vilbert.extractors.folding import fold_batch_norms


@pytest.mark.parametrize("name", ["resnet50_fpn_v2", "mobilenet_v3_large_320_fpn"])
def test_maps_stay_the_same_and_no_norm_is_left(name: str) -> None:
    settings = DetectorSettings(detector="torchvision", torchvision_model=name, weights="random", device="cpu")
    model = load_model(settings).model.eval()
    randomise(model, 1)
    generator = torch.Generator().manual_seed(0)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.running_mean.normal_(std=0.1, generator=generator)
        norm.running_var.uniform_(0.5, 2, generator=generator)
        norm.bias.data.normal_(std=0.1, generator=generator)
    pixels = torch.randn(1, 3, 64, 96, generator=generator)
    with torch.inference_mode():
        before = model.backbone(pixels)
    fold_batch_norms(model)
    with torch.inference_mode():
        after = model.backbone(pixels)
    assert len(norms) > 40
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    for level, expected in before.items():
        torch.testing.assert_close(after[level], expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


def test_norms_whose_order_is_unknown_stay() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1)

    model = Own().eval()
    fold_batch_norms(model)
    assert isinstance(model.norm, nn.BatchNorm2d)
