"""Folders of tiny image encoders with random weights from a seed, as save_pretrained writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers as hf

LAYERS: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32,
}  # fmt: skip
VISION: dict[str, Any] = {**LAYERS, "image_size": 64, "patch_size": 16}
TEXT: dict[str, Any] = {**LAYERS, "vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2}
CONVOLUTIONS: dict[str, Any] = {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
SQUARE = {"height": 64, "width": 64}
CROP = {"size": {"shortest_edge": 72}, "crop_size": SQUARE, "do_center_crop": True}


def _clip() -> tuple[Any, Any]:
    config = hf.CLIPConfig(text_config=TEXT, vision_config=VISION)
    return hf.CLIPModel(config), hf.CLIPImageProcessor(**CROP)


def _siglip() -> tuple[Any, Any]:
    config = hf.SiglipConfig(text_config=TEXT, vision_config=VISION)
    return hf.SiglipModel(config), hf.SiglipImageProcessor(size=SQUARE)


def _siglip2() -> tuple[Any, Any]:
    vision = {**LAYERS, "patch_size": 16, "num_patches": 16}
    config = hf.Siglip2Config(text_config=TEXT, vision_config=vision)
    return hf.Siglip2Model(config), hf.Siglip2ImageProcessor(patch_size=16, max_num_patches=16)


def _dinov2() -> tuple[Any, Any]:
    config = hf.Dinov2Config(**{**VISION, "image_size": 80})
    return hf.Dinov2Model(config), hf.BitImageProcessor(**CROP)


def _dinov3() -> tuple[Any, Any]:
    return hf.DINOv3ViTModel(hf.DINOv3ViTConfig(**VISION, num_register_tokens=4)), hf.ViTImageProcessor(size=SQUARE)


def _vit() -> tuple[Any, Any]:
    return hf.ViTModel(hf.ViTConfig(**VISION)), hf.ViTImageProcessor(size=SQUARE)


def _resnet() -> tuple[Any, Any]:
    config = hf.ResNetConfig(embedding_size=8, layer_type="basic", **CONVOLUTIONS)
    return hf.ResNetModel(config), hf.ConvNextImageProcessor(size={"shortest_edge": 64})


def _swin() -> tuple[Any, Any]:
    config = hf.SwinConfig(embed_dim=8, depths=[1, 1], num_heads=[2, 2], window_size=2, image_size=64, patch_size=8)
    return hf.SwinModel(config), hf.ViTImageProcessor(size=SQUARE)


ENCODERS = {
    "clip": _clip,
    "siglip": _siglip,
    "siglip2": _siglip2,
    "dinov2": _dinov2,
    "dinov3_vit": _dinov3,
    "vit": _vit,
    "resnet": _resnet,
    "swin": _swin,
}
CELLS = {name: {"resnet": 2, "swin": 4}.get(name, 4) for name in ENCODERS}
"""Cells per side of the map of 64 pixels."""


def save_encoder(name: str, folder: Path, seed: int = 0) -> Path:
    """Write the folder of a tiny encoder."""
    torch.manual_seed(seed)
    model, processor = ENCODERS[name]()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
