"""Folders of tiny detectors, one per family, with random weights from a seed, as save_pretrained writes them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as hf

CLASSES = 5
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "cat", "black", "dog", "wooden", "chair")
"""Tokens of the tiny Grounding DINO: id 5 is the full stop."""


def backbone() -> Any:
    """Return the configuration of a ResNet with four stages of 8 to 16 channels."""
    return hf.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip


def rt_backbone() -> Any:
    """Return the same of the ResNet that RT-DETR has."""
    return hf.RTDetrResNetConfig(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], layer_type="basic",
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip


def hgnet() -> Any:
    """Return the configuration of a tiny HGNetV2."""
    return hf.HGNetV2Config(
        embedding_size=8, hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], stem_channels=[3, 8, 8],
        stage_in_channels=[8, 8, 8, 16], stage_mid_channels=[8, 8, 8, 8], stage_out_channels=[8, 8, 16, 16],
        stage_num_blocks=[1, 1, 1, 1], stage_numb_of_layers=[1, 1, 1, 1],
        stage_downsample=[False, True, True, True], stage_light_block=[False, False, True, True],
        stage_kernel_size=[3, 3, 3, 3], out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip


LABELS = {index: f"thing {index}" for index in range(CLASSES)}
_DETR: dict[str, Any] = {
    "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32,
    "encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 12, "id2label": LABELS,
}  # fmt: skip
_RT: dict[str, Any] = {
    "d_model": 32, "encoder_hidden_dim": 32, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32, "encoder_attention_heads": 2, "decoder_attention_heads": 2, "num_queries": 12,
    "encoder_in_channels": [8, 16, 16], "decoder_in_channels": [32, 32, 32], "decoder_n_points": 2,
    "id2label": LABELS, "num_denoising": 0,
}  # fmt: skip


def detr() -> tuple[Any, Any]:
    return hf.DetrConfig(backbone_config=backbone(), **_DETR), hf.DetrImageProcessor(size=SHORT)


def conditional_detr() -> tuple[Any, Any]:
    return hf.ConditionalDetrConfig(backbone_config=backbone(), **_DETR), hf.ConditionalDetrImageProcessor(size=SHORT)


def deformable_detr() -> tuple[Any, Any]:
    config = hf.DeformableDetrConfig(
        backbone_config=backbone(), num_feature_levels=3, encoder_n_points=2, decoder_n_points=2, two_stage=True,
        with_box_refine=True, two_stage_num_proposals=12, **_DETR,
    )  # fmt: skip
    return config, hf.DeformableDetrImageProcessor(size=SHORT)


def rt_detr_v2() -> tuple[Any, Any]:
    return hf.RTDetrV2Config(backbone_config=rt_backbone(), **_RT), hf.RTDetrImageProcessor(size=SQUARE)


def d_fine() -> tuple[Any, Any]:
    return hf.DFineConfig(backbone_config=hgnet(), **_RT), hf.RTDetrImageProcessor(size=SQUARE)


def rf_detr() -> tuple[Any, Any]:
    dinov2 = {
        "model_type": "rf_detr_dinov2", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": 64, "patch_size": 16, "num_windows": 2, "out_features": ["stage1", "stage2"],
    }  # fmt: skip
    config = hf.RfDetrConfig(
        backbone_config=dinov2, d_model=32, decoder_layers=2, decoder_ffn_dim=32, decoder_self_attention_heads=2,
        decoder_cross_attention_heads=2, num_queries=12, decoder_n_points=2, hidden_expansion=0.5, c2f_num_blocks=1,
        projector_scale_factors=[1.0], id2label=LABELS, group_detr=2,
    )  # fmt: skip
    return config, hf.RfDetrImageProcessor(size=SQUARE)


def yolos() -> tuple[Any, Any]:
    config = hf.YolosConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=[64, 96],
        patch_size=16, num_detection_tokens=12, id2label=LABELS,
    )  # fmt: skip
    return config, hf.YolosImageProcessor(size=SHORT)


def grounding_dino() -> tuple[Any, Any]:
    swin = hf.SwinConfig(
        embed_dim=8, depths=[1, 1, 1, 1], num_heads=[2, 2, 2, 2], window_size=2, image_size=64,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    text = hf.BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=32,
    )  # fmt: skip
    config = hf.GroundingDinoConfig(
        backbone_config=swin, text_config=text, num_feature_levels=3, encoder_n_points=2, decoder_n_points=2,
        max_text_len=24, two_stage=True, **{key: value for key, value in _DETR.items() if key != "id2label"},
    )  # fmt: skip
    return config, hf.GroundingDinoImageProcessor(size=SHORT)


def owlv2() -> tuple[Any, Any]:
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 32, "intermediate_size": 32}
    config = hf.Owlv2Config(
        text_config={**layers, "vocab_size": 64, "max_position_embeddings": 16, "pad_token_id": 0},
        vision_config={**layers, "image_size": 64, "patch_size": 16}, projection_dim=32,
    )  # fmt: skip
    return config, hf.Owlv2ImageProcessor(size=SQUARE)


SHORT = {"shortest_edge": 64, "longest_edge": 96}
SQUARE = {"height": 64, "width": 64}
CLOSED: dict[str, Callable[[], tuple[Any, Any]]] = {
    "detr": detr,
    "conditional_detr": conditional_detr,
    "deformable_detr": deformable_detr,
    "rt_detr_v2": rt_detr_v2,
    "d_fine": d_fine,
    "rf_detr": rf_detr,
    "yolos": yolos,
}
OPEN: dict[str, Callable[[], tuple[Any, Any]]] = {"grounding_dino": grounding_dino, "owlv2": owlv2}
SOFTMAX = ("detr", "yolos")


def save_model(name: str, folder: Path, seed: int = 0) -> Path:
    """Write the folder of a tiny detector; its weights are spread out, so that regions differ."""
    config, processor = {**CLOSED, **OPEN}[name]()
    torch.manual_seed(seed)
    auto = hf.AutoModelForZeroShotObjectDetection if name in OPEN else hf.AutoModelForObjectDetection
    model = auto.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.add_(torch.randn_like(parameter) * 0.15)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    if name == "grounding_dino":
        (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        hf.BertTokenizer(vocab=str(folder / "vocab.txt")).save_pretrained(folder)
    if name == "owlv2":
        _clip_tokenizer().save_pretrained(folder)
    return folder


def _clip_tokenizer() -> Any:
    letters = [chr(code) for code in range(97, 123)]
    vocabulary = {token: index for index, token in enumerate(["!", *letters, *(f"{it}</w>" for it in letters)])}
    vocabulary |= {"<|startoftext|>": len(vocabulary), "<|endoftext|>": len(vocabulary) + 1}
    return hf.CLIPTokenizer(vocab=vocabulary, merges=[], pad_token="!")


def edit_config(folder: Path, **values: object) -> None:
    """Overwrite values of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))
