"""Poolers, pre-training heads and task heads, with the module names of published files.

Shapes: B batch, L positions, A the width of pooled vectors (`bi_hidden_size`), M labelled positions.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from vilbert.model.config import ViLBertConfig
from vilbert.model.operators import Dropout, Linear, linear


class Pooler(nn.Module):
    """Project the first position, [CLS] or the global region, to the common width, with ReLU instead of BERT's tanh."""

    def __init__(self, width: int, pooled: int) -> None:
        super().__init__()
        self.dense = Linear(width, pooled)

    def forward(self, states_BLH: Tensor) -> Tensor:
        return F.relu(self.dense(states_BLH[:, 0]))


def fuse(pooled_text_BA: Tensor, pooled_image_BA: Tensor, method: str) -> Tensor:
    """Return one vector per pair, the product ("mul") or the sum."""
    return pooled_text_BA * pooled_image_BA if method == "mul" else pooled_text_BA + pooled_image_BA


class Transform(nn.Module):
    """The dense layer of a pre-training head."""

    def __init__(self, width: int, config: ViLBertConfig) -> None:
        super().__init__()
        self.dense = Linear(width, width)
        self.activation = ACT2FN[config.hidden_act]  # also in the region head, as published
        self.LayerNorm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, states: Tensor) -> Tensor:
        return self.LayerNorm(self.activation(self.dense(states)))


class WordHead(nn.Module):
    """Score every word piece. The decoder is tied to the word embeddings and has its own bias."""

    def __init__(self, config: ViLBertConfig) -> None:
        super().__init__()
        self.transform = Transform(config.hidden_size, config)
        self.decoder: nn.Linear = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))

    def forward(self, states: Tensor) -> Tensor:
        return linear(self.transform(states), self.decoder.weight, self.bias)


class RegionHead(nn.Module):
    """Score the classes of a region, or predict its features."""

    def __init__(self, config: ViLBertConfig) -> None:
        super().__init__()
        self.transform = Transform(config.v_hidden_size, config)
        self.decoder = Linear(config.v_hidden_size, config.v_target_size)

    def forward(self, states: Tensor) -> Tensor:
        return self.decoder(self.transform(states))


class PreTrainingHeads(nn.Module):
    """Masked words, masked regions, alignment."""

    def __init__(self, config: ViLBertConfig) -> None:
        super().__init__()
        self.predictions = WordHead(config)
        self.bi_seq_relationship = Linear(config.bi_hidden_size, 2)
        self.imagePredictions = RegionHead(config)
        self.dropout = Dropout(config.pooled_dropout_prob)

    def alignment(self, fused_BA: Tensor) -> Tensor:
        """Return scores [B, 2]: class 0 says that text and image match."""
        return self.bi_seq_relationship(self.dropout(fused_BA))


class WeightNormLinear(nn.Module):
    """A linear layer with weight g v / |v| and a scalar g, with the names of torch's old `weight_norm(dim=None)`."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight_v = nn.Parameter(torch.empty(outputs, inputs))
        self.weight_g = nn.Parameter(torch.empty(()))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise the weight like torch's linear layer, as in the published models, and the bias with zeros."""
        nn.init.kaiming_uniform_(self.weight_v, a=math.sqrt(5))
        self.weight_g.copy_(self.weight_v.norm())
        self.bias.zero_()

    def forward(self, states: Tensor) -> Tensor:
        return linear(states, self.weight_v * (self.weight_g / self.weight_v.norm()), self.bias)


class BetaClassifier(nn.Module):
    """The two-layer classifier of vilbert_beta."""

    def __init__(self, width: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            WeightNormLinear(width, hidden), nn.ReLU(), Dropout(0.5), WeightNormLinear(hidden, outputs)
        )

    def forward(self, fused: Tensor) -> Tensor:
        return self.main(fused)


class Classifier(nn.Module):
    """The two-layer classifier of vilbert-multi-task."""

    def __init__(self, width: int, hidden: int, outputs: int, layer_norm_eps: float) -> None:
        super().__init__()
        self.logit_fc = nn.Sequential(
            Linear(width, hidden), nn.GELU(), nn.LayerNorm(hidden, eps=layer_norm_eps), Linear(hidden, outputs)
        )

    def forward(self, fused: Tensor) -> Tensor:
        return self.logit_fc(fused)
