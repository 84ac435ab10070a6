"""The layers of the two streams, and the co-attention layer between them. Module names are those of published files.

Shapes: B batch, T words, R regions, L positions of either stream, H its width, A the width of co-attention.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer

from vilbert.model.attention import attend, split_heads
from vilbert.model.config import ViLBertConfig
from vilbert.model.operators import Dropout, Linear, dropout
from vilbert.model.packing import Packing


@dataclass(frozen=True, kw_only=True)
class StreamSizes:
    """Sizes of a layer of one stream, from the text fields of a config or those with `v_`."""

    hidden: int
    heads: int
    intermediate: int
    activation: str
    dropout: float
    attention_dropout: float
    layer_norm_eps: float


def text_sizes(config: ViLBertConfig) -> StreamSizes:
    """Return the sizes of the text stream."""
    return StreamSizes(
        hidden=config.hidden_size,
        heads=config.num_attention_heads,
        intermediate=config.intermediate_size,
        activation=config.hidden_act,
        dropout=config.hidden_dropout_prob,
        attention_dropout=config.attention_probs_dropout_prob,
        layer_norm_eps=config.layer_norm_eps,
    )


def image_sizes(config: ViLBertConfig) -> StreamSizes:
    """Return the sizes of the visual stream."""
    return StreamSizes(
        hidden=config.v_hidden_size,
        heads=config.v_num_attention_heads,
        intermediate=config.v_intermediate_size,
        activation=config.v_hidden_act,
        dropout=config.v_hidden_dropout_prob,
        attention_dropout=config.v_attention_probs_dropout_prob,
        layer_norm_eps=config.layer_norm_eps,
    )


class SelfAttention(nn.Module):
    """Self-attention within a stream; if `text_width` is given, words gate queries and keys (dynamic attention)."""

    def __init__(self, sizes: StreamSizes, text_width: int | None = None) -> None:
        super().__init__()
        self.heads = sizes.heads
        self.dropout = sizes.attention_dropout
        self.query = Linear(sizes.hidden, sizes.hidden)
        self.key = Linear(sizes.hidden, sizes.hidden)
        self.value = Linear(sizes.hidden, sizes.hidden)
        self.dynamic = text_width is not None
        if text_width is not None:
            self.dyLinear_q = Linear(text_width, sizes.hidden)
            self.dyLinear_k = Linear(text_width, sizes.hidden)

    def forward(
        self,
        states_BLH: Tensor,
        scores_mask: Tensor | None,
        words_BH: Tensor | None,
        queries: Tensor,
        packing: Packing | None,
        queries_packing: Packing | None,
        *,
        eager: bool,
    ) -> tuple[Tensor, Tensor | None]:
        query = split_heads(self.query(queries), self.heads, queries_packing)
        key = split_heads(self.key(states_BLH), self.heads, packing)
        if self.dynamic:
            query = query * self._gate(self.dyLinear_q, words_BH)
            key = key * self._gate(self.dyLinear_k, words_BH)
        return attend(
            query,
            key,
            split_heads(self.value(states_BLH), self.heads, packing),
            scores_mask,
            dropout=self.dropout if self.training else 0.0,
            eager=eager,
            packing=queries_packing,
        )

    def _gate(self, linear: Linear, words_BH: Tensor | None) -> Tensor:
        return 1 + split_heads(torch.sigmoid(linear(words_BH))[:, None], self.heads)


class Output(nn.Module):
    """Projection, dropout, residual connection and layer normalisation."""

    def __init__(self, width: int, sizes: StreamSizes) -> None:
        super().__init__()
        self.dense = Linear(width, sizes.hidden)
        self.LayerNorm = nn.LayerNorm(sizes.hidden, eps=sizes.layer_norm_eps)
        self.dropout = Dropout(sizes.dropout)

    def forward(self, states: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(states)) + residual)


class Intermediate(nn.Module):
    """Expanding linear layer with activation."""

    def __init__(self, sizes: StreamSizes) -> None:
        super().__init__()
        self.dense = Linear(sizes.hidden, sizes.intermediate)
        self.activation = ACT2FN[sizes.activation]

    def forward(self, states: Tensor) -> Tensor:
        return self.activation(self.dense(states))


class Attention(nn.Module):
    """Self-attention with its output block."""

    def __init__(self, sizes: StreamSizes, text_width: int | None) -> None:
        super().__init__()
        self.self = SelfAttention(sizes, text_width)
        self.output = Output(sizes.hidden, sizes)

    def forward(
        self,
        states: Tensor,
        scores_mask: Tensor | None,
        words_BH: Tensor | None,
        packing: Packing | None,
        kept: Packing | None,
        *,
        eager: bool,
    ) -> tuple[Tensor, Tensor | None]:
        queries = states if kept is None else kept.pack(states if packing is None else packing.unpack(states))
        context, maps = self.self(states, scores_mask, words_BH, queries, packing, kept or packing, eager=eager)
        return self.output(context, queries), maps


class StreamLayer(GradientCheckpointingLayer):
    """A layer of one stream: BERT's, with the residual before the normalisation."""

    def __init__(self, sizes: StreamSizes, text_width: int | None = None) -> None:
        super().__init__()
        self.attention = Attention(sizes, text_width)
        self.intermediate = Intermediate(sizes)
        self.output = Output(sizes.intermediate, sizes)

    def forward(
        self,
        states_BLH: Tensor,
        scores_mask: Tensor | None,
        words_BH: Tensor | None = None,
        packing: Packing | None = None,
        kept: Packing | None = None,
        *,
        eager: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return the next states [B, L, H] and, if eager, the attention maps [B, heads, L, L].

        Args:
            states_BLH: States [B, L, H], or [W, H] if `packing` is given.
            scores_mask: Additive mask of the attention scores.
            words_BH: Mean of the words, for dynamic attention only.
            packing: Packing of the states.
            kept: Positions to return, as [W, H]; None for all.
            eager: Return the attention maps.
        """
        attended, maps = self.attention(states_BLH, scores_mask, words_BH, packing, kept, eager=eager)
        return self.output(self.intermediate(attended), attended), maps


class BiAttention(nn.Module):
    """Attention of each stream to the other: 1 is the image stream, 2 the text stream."""

    def __init__(self, config: ViLBertConfig) -> None:
        super().__init__()
        self.heads = config.bi_num_attention_heads
        self.image_dropout = config.v_attention_probs_dropout_prob
        self.text_dropout = config.attention_probs_dropout_prob
        self.query1 = Linear(config.v_hidden_size, config.bi_hidden_size)
        self.key1 = Linear(config.v_hidden_size, config.bi_hidden_size)
        self.value1 = Linear(config.v_hidden_size, config.bi_hidden_size)
        self.query2 = Linear(config.hidden_size, config.bi_hidden_size)
        self.key2 = Linear(config.hidden_size, config.bi_hidden_size)
        self.value2 = Linear(config.hidden_size, config.bi_hidden_size)

    def forward(
        self,
        image: Tensor,
        image_scores_mask: Tensor | None,
        text: Tensor,
        text_scores_mask: Tensor | None,
        image_packing: Packing | None,
        text_packing: Packing | None,
        *,
        eager: bool,
    ) -> tuple[Tensor, Tensor, tuple[Tensor | None, Tensor | None]]:
        """Return the contexts of regions over words [B, R, A] and words over regions [B, T, A], and their maps."""
        to_image, text_maps = attend(
            split_heads(self.query2(text), self.heads, text_packing),
            split_heads(self.key1(image), self.heads, image_packing),
            split_heads(self.value1(image), self.heads, image_packing),
            image_scores_mask,
            dropout=self.image_dropout if self.training else 0.0,
            eager=eager,
            packing=text_packing,
        )
        to_text, image_maps = attend(
            split_heads(self.query1(image), self.heads, image_packing),
            split_heads(self.key2(text), self.heads, text_packing),
            split_heads(self.value2(text), self.heads, text_packing),
            text_scores_mask,
            dropout=self.text_dropout if self.training else 0.0,
            eager=eager,
            packing=image_packing,
        )
        return to_text, to_image, (text_maps, image_maps)


class BiOutput(nn.Module):
    """Add to each stream its context from the other. Both residuals are the layer's inputs."""

    def __init__(self, config: ViLBertConfig) -> None:
        super().__init__()
        self.dense1 = Linear(config.bi_hidden_size, config.v_hidden_size)
        self.LayerNorm1 = nn.LayerNorm(config.v_hidden_size, eps=config.layer_norm_eps)
        self.q_dense1 = Linear(config.bi_hidden_size, config.v_hidden_size)
        self.dense2 = Linear(config.bi_hidden_size, config.hidden_size)
        self.LayerNorm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.q_dense2 = Linear(config.bi_hidden_size, config.hidden_size)
        self.image_dropout = config.v_hidden_dropout_prob
        self.text_dropout = config.hidden_dropout_prob
        self.freeze_unused()

    def freeze_unused(self) -> None:
        """Exclude q_dense1 and q_dense2, which are in published files but unused, from optimizers and DDP."""
        self.q_dense1.requires_grad_(False)
        self.q_dense2.requires_grad_(False)

    def forward(self, to_text: Tensor, image: Tensor, to_image: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        read_of_text = dropout(self.dense1(to_text), self.image_dropout, self.training)
        read_of_image = dropout(self.dense2(to_image), self.text_dropout, self.training)
        return self.LayerNorm1(read_of_text + image), self.LayerNorm2(read_of_image + text)


class ConnectionLayer(GradientCheckpointingLayer):
    """Co-attention: a transformer block for each stream, whose keys and values come from the other stream."""

    def __init__(self, config: ViLBertConfig) -> None:
        super().__init__()
        image, text = image_sizes(config), text_sizes(config)
        self.biattention = BiAttention(config)
        self.biOutput = BiOutput(config)
        self.v_intermediate = Intermediate(image)
        self.v_output = Output(image.intermediate, image)
        self.t_intermediate = Intermediate(text)
        self.t_output = Output(text.intermediate, text)

    def forward(
        self,
        image_BRV: Tensor,
        image_scores_mask: Tensor | None,
        text_BTH: Tensor,
        text_scores_mask: Tensor | None,
        image_packing: Packing | None = None,
        text_packing: Packing | None = None,
        *,
        eager: bool = False,
    ) -> tuple[Tensor, Tensor, tuple[Tensor | None, Tensor | None]]:
        """Return image [B, R, V], text [B, T, H] and, if eager, the maps ([B, N, T, R], [B, N, R, T]).

        With `image_packing` or `text_packing`, the states of that stream are [W, V] or [W, H].
        """
        to_text, to_image, maps = self.biattention(
            image_BRV, image_scores_mask, text_BTH, text_scores_mask, image_packing, text_packing, eager=eager
        )
        image, text = self.biOutput(to_text, image_BRV, to_image, text_BTH)
        return self.v_output(self.v_intermediate(image), image), self.t_output(self.t_intermediate(text), text), maps
