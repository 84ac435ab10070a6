"""Embeddings of words and regions, the inputs of the two streams.

Shapes: B batch, T words, R regions, F features of a region.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vilbert.model.config import ViLBertConfig
from vilbert.model.operators import Dropout, Linear


class TextEmbeddings(nn.Module):
    """Embed word pieces, their positions and types, and the task if the model has task tokens."""

    def __init__(self, config: ViLBertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)
        if config.task_specific_tokens:
            self.task_embeddings = nn.Embedding(config.num_task_tokens, config.hidden_size)
        self.pad_token_id = config.pad_token_id or 0
        self.roberta_positions = config.text_model == "roberta" and not config.reference_positions

    def position_ids(self, input_ids_BT: Tensor | None, length: int, device: torch.device) -> Tensor:
        """Return position ids [1 or B, T]: from 0, or for RoBERTa from `pad_token_id` + 1, skipping padding."""
        if not self.roberta_positions:
            return torch.arange(length, device=device)[None]
        if input_ids_BT is None:
            return torch.arange(length, device=device)[None] + self.pad_token_id + 1
        words = (input_ids_BT != self.pad_token_id).long()
        return words.cumsum(1) * words + self.pad_token_id

    def forward(
        self,
        input_ids_BT: Tensor | None,
        token_type_ids_BT: Tensor | None,
        task_ids_B1: Tensor | None,
        inputs_embeds_BTH: Tensor | None,
    ) -> Tensor:
        """Return [B, T, H], or [B, T + 1, H] with the task embedding (without position and type) at index 1."""
        words = self.word_embeddings(input_ids_BT) if inputs_embeds_BTH is None else inputs_embeds_BTH
        positions = self.position_ids(input_ids_BT, words.shape[1], words.device)
        types = torch.zeros_like(positions) if token_type_ids_BT is None else token_type_ids_BT
        embeddings = words + self.position_embeddings(positions) + self.token_type_embeddings(types)
        if task_ids_B1 is not None:
            task = self.task_embeddings(task_ids_B1.reshape(-1, 1)).expand(len(embeddings), -1, -1)
            embeddings = torch.cat([embeddings[:, :1], task, embeddings[:, 1:]], dim=1)
        return self.dropout(self.LayerNorm(embeddings))


class LocationEmbeddings(Linear):
    """Embed the five coordinates of a box, with a separate standard deviation for initialising the weights."""

    def __init__(self, config: ViLBertConfig) -> None:
        super().__init__(5, config.v_hidden_size)
        own = config.location_initializer_range
        self.initializer_range = config.initializer_range if own is None else own


class ImageEmbeddings(nn.Module):
    """Embed region features and boxes."""

    def __init__(self, config: ViLBertConfig) -> None:
        super().__init__()
        self.image_embeddings = Linear(config.v_feature_size, config.v_hidden_size)
        self.image_location_embeddings = LocationEmbeddings(config)
        self.LayerNorm = nn.LayerNorm(config.v_hidden_size, eps=config.layer_norm_eps)
        self.dropout = Dropout(config.hidden_dropout_prob)  # hidden_dropout_prob without v_, as published

    def forward(self, image_feat_BRF: Tensor, image_loc_BR5: Tensor) -> Tensor:
        """Return [B, R, v_hidden_size] of features and (x1, y1, x2, y2, area), all fractions of the image."""
        embeddings = self.image_embeddings(image_feat_BRF) + self.image_location_embeddings(image_loc_BR5)
        return self.dropout(self.LayerNorm(embeddings))
