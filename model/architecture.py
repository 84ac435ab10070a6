"""Infer the sizes of a model from the names and shapes of its parameters, and compare them with a configuration.

A checkpoint of another architecture has hundreds of mismatched parameters. One sentence explains them: "the file has 3
co-attention layers, the configuration 2". This module reads no tensors, so that a file can be compared with a
configuration before a model is built.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from vilbert.model.config import ViLBertConfig

Shapes = Mapping[str, Sequence[int]]

SHOWN = 5
"""Maximum number of differences in a message."""

_LAYER = re.compile(r"bert\.encoder\.(layer|v_layer|c_layer)\.(\d+)\.")
_LAYERS = {
    "layer": ("num_hidden_layers", "text layers"),
    "v_layer": ("v_num_hidden_layers", "image layers"),
    "c_layer": ("v_biattention_id", "co-attention layers"),
}
# Setting: a parameter (our name), the dimension of it that the setting gives, and what the setting counts.
_BACKBONE = {
    "vocab_size": ("bert.embeddings.word_embeddings.weight", 0, "words in its vocabulary"),
    "hidden_size": ("bert.embeddings.word_embeddings.weight", 1, "a text hidden size of"),
    "max_position_embeddings": ("bert.embeddings.position_embeddings.weight", 0, "text positions"),
    "type_vocab_size": ("bert.embeddings.token_type_embeddings.weight", 0, "token types"),
    "num_task_tokens": ("bert.embeddings.task_embeddings.weight", 0, "task tokens"),
    "intermediate_size": ("bert.encoder.layer.0.intermediate.dense.weight", 0, "a text intermediate size of"),
    "v_feature_size": ("bert.v_embeddings.image_embeddings.weight", 1, "a region feature size of"),
    "v_hidden_size": ("bert.v_embeddings.image_embeddings.weight", 0, "an image hidden size of"),
    "v_intermediate_size": ("bert.encoder.v_layer.0.intermediate.dense.weight", 0, "an image intermediate size of"),
    "bi_hidden_size": ("bert.t_pooler.dense.weight", 0, "a co-attention hidden size of"),
}
_HEADS = {
    "v_target_size": ("cls.imagePredictions.decoder.weight", 0, "region classes"),
    "num_answers": ("vil_prediction.logit_fc.3.weight", 0, "answers"),
    "num_gqa_answers": ("vil_prediction_gqa.logit_fc.3.weight", 0, "GQA answers"),
}
_BETA_ANSWERS = ("vil_prediction.main.3.bias", 0, "answers")


class Difference(NamedTuple):
    """A size that differs between a file and a configuration."""

    setting: str
    """Name in `ViLBertConfig`; `v_biattention_id` for the number of co-attention layers."""
    what: str
    """Description of the size, for a message."""
    file: int
    """The size in the file."""
    config: int
    """The size in the configuration."""
    parameter: str = ""
    """The parameter that determines the size; empty for a number of layers."""

    def __str__(self) -> str:
        """Return "the file has 3 co-attention layers, the configuration 2"."""
        if self.what.endswith(" of"):
            return f"the file has {self.what} {self.file}, the configuration {self.config}"
        one = self.what.replace("layers", "layer").replace("words in its", "word in its")
        return f"the file has {self.file} {one if self.file == 1 else self.what}, the configuration {self.config}"


def count_layers(shapes: Shapes) -> dict[str, int]:
    """Return the number of layers by setting, for each kind of layer among parameters with our names."""
    last: dict[str, int] = {}
    for name in shapes:
        if (match := _LAYER.match(name)) is not None:
            setting = _LAYERS[match[1]][0]
            last[setting] = max(last.get(setting, 0), int(match[2]) + 1)
    return last


def differences(config: ViLBertConfig, shapes: Shapes) -> list[Difference]:
    """Return the sizes that differ between parameters and a configuration. Sizes without a parameter are omitted.

    Args:
        config: The configuration of the model to load into.
        shapes: Shapes of a file's parameters by our names (`vilbert.model.layouts.to_ours`).
    """
    layers = count_layers(shapes)
    found = []
    for setting, what in _LAYERS.values():
        configured = getattr(config, setting)
        wanted = configured if isinstance(configured, int) else len(configured)
        if layers.get(setting, wanted) != wanted:
            found.append(Difference(setting, what, layers[setting], wanted))
    answers = {"num_answers": _BETA_ANSWERS} if config.task_heads == "beta" else {}
    for setting, (name, axis, what) in {**_BACKBONE, **_HEADS, **answers}.items():
        shape = shapes.get(name, ())
        if len(shape) > axis and shape[axis] != getattr(config, setting):
            found.append(Difference(setting, what, int(shape[axis]), getattr(config, setting), name))
    return found


def describe(found: Sequence[Difference]) -> str:
    """Return the first differences as one string."""
    shown = "; ".join(map(str, found[:SHOWN]))
    return shown + (f"; and {len(found) - SHOWN} more sizes" if len(found) > SHOWN else "")


def is_of_a_head(difference: Difference) -> bool:
    """Return whether a size belongs to a head, which may be newly initialised, and not to the backbone."""
    return difference.setting in _HEADS


def is_of_layers(difference: Difference) -> bool:
    """Return whether a size is a number of layers."""
    return difference.setting in {setting for setting, _ in _LAYERS.values()}


def count_parameters(config: ViLBertConfig) -> int:
    """Return the approximate number of parameters of a configuration (matrices only), without building the model."""
    text, image, both = config.hidden_size, config.v_hidden_size, config.bi_hidden_size
    text_layer = 4 * text * text + 2 * text * config.intermediate_size
    image_layer = 4 * image * image + 2 * image * config.v_intermediate_size
    connection = (
        5 * both * (text + image) + 2 * text * config.intermediate_size + 2 * image * config.v_intermediate_size
    )
    rows = config.vocab_size + config.max_position_embeddings + config.type_vocab_size + config.num_task_tokens
    embeddings = text * rows + image * (config.v_feature_size + 5)
    heads = text * text + image * (image + config.v_target_size) + both * (text + image)
    answers = 2 * both * (4 * both + config.num_answers + config.num_gqa_answers)
    return (
        config.num_hidden_layers * text_layer
        + config.v_num_hidden_layers * image_layer
        + len(config.v_biattention_id) * connection
        + embeddings + heads + answers
    )  # fmt: skip
