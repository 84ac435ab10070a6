"""The families of detectors in transformers: which they are, and what an image gives, in one form for all.

A query is one candidate: a box, scores for each class, and the last hidden state from which both were computed.

Shapes: B images, Q queries of an image, C classes (without background), D channels of a hidden state, T text tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vilbert.extractors.detectors.transformers.vocabulary import Prompts


class Queries(NamedTuple):
    """What a detector says of B images, all float32."""

    boxes: Tensor
    """[B, Q, 4] centre x, centre y, width, height, relative to the image (or to the square that holds it)."""
    probs: Tensor
    """[B, Q, C + 1] background first: a softmax, or 0 for the background and the sigmoid of each class."""
    features: Tensor
    """[B, Q, D] last hidden state."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """How the models of one `model_type` are run."""

    queries: Callable[[Any, Any, Prompts | None], Queries]
    """From model, image processor's output and prompts to queries."""
    softmax: bool = False
    """Classes compete in a softmax whose last column is "no object"; otherwise each class has a sigmoid of its own."""
    open_vocabulary: bool = False
    """Classes are names that the user gives."""
    in_square: bool = False
    """The image is padded to a square, to which boxes are relative."""


def softmax_queries(model: Any, inputs: Any, prompts: Prompts | None) -> Queries:
    """Run a DETR whose last logit is "no object", which becomes class 0."""
    output = model(**inputs)
    probs = output.logits.float().softmax(dim=-1).roll(1, dims=-1)
    return Queries(output.pred_boxes.float(), probs, _last_queries(output))


def sigmoid_queries(model: Any, inputs: Any, prompts: Prompts | None) -> Queries:
    """Run a DETR that scores each class on its own."""
    output = model(**inputs)
    return Queries(output.pred_boxes.float(), _with_background(output.logits.float().sigmoid()), _last_queries(output))


def grounding_queries(model: Any, inputs: Any, prompts: Prompts | None) -> Queries:
    """Run a Grounding DINO; a name's score is the highest of its tokens' (as the library's post-processing has it)."""
    assert prompts is not None
    count = len(inputs["pixel_values"])
    text = {key: value.expand(count, -1) for key, value in prompts.tokens.items()}
    output = model(**inputs, **text)
    token_probs = output.logits.float().sigmoid()[..., : len(prompts.name_of_token)]  # [B, Q, T]
    probs = token_probs.new_zeros(*token_probs.shape[:2], prompts.count + 1)
    columns = (prompts.name_of_token + 1).expand_as(token_probs)  # 0: a token of no name
    probs = probs.scatter_reduce(-1, columns, token_probs, reduce="amax")
    probs[..., 0] = 0
    return Queries(output.pred_boxes.float(), probs, _last_queries(output))


def owl_queries(model: Any, inputs: Any, prompts: Prompts | None) -> Queries:
    """Run an OWL-ViT or OWLv2 on embeddings of the names computed once; its queries are the patches of the image."""
    assert prompts is not None
    feature_map, _ = model.image_embedder(inputs["pixel_values"])  # [B, H, W, D]
    features = feature_map.flatten(1, 2)
    names = prompts.embeddings.expand(len(features), -1, -1)
    logits, _ = model.class_predictor(features, names)
    boxes = model.box_predictor(features, feature_map)
    return Queries(boxes.float(), _with_background(logits.float().sigmoid()), features.float())


def _last_queries(output: Any) -> Tensor:
    """Return the hidden states of the queries; those of YOLOS stand behind the patches."""
    hidden: Tensor = output.last_hidden_state
    return hidden[:, -output.pred_boxes.shape[1] :].float()


def _with_background(probs: Tensor) -> Tensor:
    return torch.cat([torch.zeros_like(probs[..., :1]), probs], dim=-1)


_SOFTMAX = Family(queries=softmax_queries, softmax=True)
_SIGMOID = Family(queries=sigmoid_queries)
_GROUNDING = Family(queries=grounding_queries, open_vocabulary=True)

FAMILIES = {
    "conditional_detr": _SIGMOID,
    "d_fine": _SIGMOID,
    "dab-detr": _SIGMOID,
    "deformable_detr": _SIGMOID,
    "deimv2": _SIGMOID,
    "detr": _SOFTMAX,
    "grounding-dino": _GROUNDING,
    "lw_detr": _SIGMOID,
    "mm-grounding-dino": _GROUNDING,
    "owlv2": Family(queries=owl_queries, open_vocabulary=True, in_square=True),
    "owlvit": Family(queries=owl_queries, open_vocabulary=True),
    "rf_detr": _SIGMOID,
    "rt_detr": _SIGMOID,
    "rt_detr_v2": _SIGMOID,
    "table-transformer": _SOFTMAX,
    "yolos": _SOFTMAX,
}
"""By `model_type` of config.json."""
