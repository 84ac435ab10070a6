"""Outputs of the models. B batch, T words (one more with a task token), R regions, M labelled positions.

States and maps are None unless requested. `text_hidden_states` are the embeddings and the states after
every text layer and co-attention layer, `image_hidden_states` likewise; `text_attentions` [B, heads, T, T] and
`image_attentions` [B, heads, R, R] are of each layer of a stream, `co_attentions` of each co-attention layer the pair
(words looking at regions [B, heads, T, R], regions looking at words [B, heads, R, T]). Maps are taken after dropout.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor
from transformers.utils.generic import ModelOutput

from vilbert.model.losses import LossSum

Maps = tuple[Tensor, ...]
CoMaps = tuple[tuple[Tensor, Tensor], ...]


@dataclass
class ViLBertModelOutput(ModelOutput):
    """The last states [B, T, H] and [B, R, V], and the pooled vectors [B, bi_hidden_size]."""

    text_output: Tensor = None  # type: ignore[assignment] # a ModelOutput's fields have defaults
    image_output: Tensor = None  # type: ignore[assignment] # a ModelOutput's fields have defaults
    pooled_text: Tensor = None  # type: ignore[assignment] # a ModelOutput's fields have defaults
    pooled_image: Tensor = None  # type: ignore[assignment] # a ModelOutput's fields have defaults
    text_hidden_states: Maps | None = None
    image_hidden_states: Maps | None = None
    text_attentions: Maps | None = None
    image_attentions: Maps | None = None
    co_attentions: CoMaps | None = None


@dataclass
class ViLBertForPreTrainingOutput(ModelOutput):
    """Losses of the heads with labels, and scores of the other heads.

    `loss` () is the sum of the mean losses. `masked_lm`, `masked_image` and `alignment` are sums and counts, to be
    added over ranks and accumulation steps before dividing. `text_scores` [B, T, vocabulary] and `image_scores`
    [B, R, v_target_size] are None if their labels were given, because only labelled positions are then projected.
    `alignment_scores` is [B, 2].
    """

    loss: Tensor | None = None
    masked_lm: LossSum | None = None
    masked_image: LossSum | None = None
    alignment: LossSum | None = None
    text_scores: Tensor | None = None
    image_scores: Tensor | None = None
    alignment_scores: Tensor | None = None
    text_hidden_states: Maps | None = None
    image_hidden_states: Maps | None = None
    text_attentions: Maps | None = None
    image_attentions: Maps | None = None
    co_attentions: CoMaps | None = None


@dataclass
class ViLBertForTasksOutput(ModelOutput):
    """The outputs of the requested heads, with their published names; see `ViLBertForTasks`."""

    vil_prediction: Tensor | None = None
    vil_prediction_gqa: Tensor | None = None
    vil_logit: Tensor | None = None
    vil_binary_prediction: Tensor | None = None
    vil_tri_prediction: Tensor | None = None
    vision_prediction: Tensor | None = None
    vision_logit: Tensor | None = None
    linguisic_prediction: Tensor | None = None
    linguisic_logit: Tensor | None = None
    text_hidden_states: Maps | None = None
    image_hidden_states: Maps | None = None
    text_attentions: Maps | None = None
    image_attentions: Maps | None = None
    co_attentions: CoMaps | None = None


KEPT = ("text_hidden_states", "image_hidden_states", "text_attentions", "image_attentions", "co_attentions")


def kept_of(encoded: ViLBertModelOutput) -> dict[str, Any]:
    """Return the fields of states and maps, to copy them to the output of a model with heads."""
    return {name: getattr(encoded, name) for name in KEPT}
