"""A ViLBERT of a few thousand parameters, large enough weights that a slip shows, and batches for it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

TINY: dict[str, Any] = {
    "vocab_size": 31, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 12,
    "max_position_embeddings": 24, "v_feature_size": 5, "v_target_size": 4, "v_hidden_size": 12,
    "v_num_hidden_layers": 3, "v_num_attention_heads": 3, "v_intermediate_size": 10, "bi_hidden_size": 8,
    "bi_num_attention_heads": 4, "v_biattention_id": [0, 2], "t_biattention_id": [1, 2], "num_answers": 6,
    "num_gqa_answers": 7, "num_negative": 4,
}  # fmt: skip


def fill(module: nn.Module, seed: int = 0) -> Any:
    """Draw every parameter, in eval mode, so that attention is far from uniform."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(drawn * 0.4 + ("LayerNorm" in name and name.endswith("weight")))
    return module.eval()


def batch(texts: int = 2, words: int = 5, images: int | None = None, regions: int = 4, seed: int = 1) -> dict[str, Any]:
    """Return ids, features and boxes of a batch; as many images as texts unless told."""
    generator = torch.Generator().manual_seed(seed)
    images = texts if images is None else images
    return {
        "input_ids": torch.randint(1, TINY["vocab_size"], (texts, words), generator=generator),
        "image_feat": torch.randn(images, regions, TINY["v_feature_size"], generator=generator),
        "image_loc": torch.rand(images, regions, 5, generator=generator),
    }


def labels(rows: int, words: int, regions: int) -> dict[str, Tensor]:
    """Return labels of one masked word and one masked region a row, alignment alternating."""
    words_labels = torch.full((rows, words), -1)
    words_labels[:, 1] = 7
    region_labels = torch.full((rows, regions - 1), -1)
    region_labels[:, 0] = 1
    target = torch.rand(rows, regions - 1, TINY["v_target_size"], generator=torch.Generator().manual_seed(3))
    return {
        "masked_lm_labels": words_labels,
        "image_label": region_labels,
        "image_target": target.softmax(-1),
        "next_sentence_label": torch.arange(rows) % 2,
    }


def largest_difference(first: Tensor, second: Tensor) -> float:
    """Return the largest absolute difference of two tensors of one shape."""
    assert first.shape == second.shape
    return (first.double() - second.double()).abs().max().item()
