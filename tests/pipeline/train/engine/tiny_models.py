"""Two small models, one of each kind, whose parameters the optimizer's tests sort and move."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from vilbert.model.config import ViLBertConfig
from vilbert.model.single_stream import SingleStreamForPreTraining
from vilbert.model.single_stream_config import SingleStreamConfig
from vilbert.model.vilbert import ViLBertForPreTraining

TWO_STREAMS: dict[str, Any] = {
    "vocab_size": 31, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 12,
    "max_position_embeddings": 24, "v_feature_size": 5, "v_target_size": 4, "v_hidden_size": 12,
    "v_num_hidden_layers": 2, "v_num_attention_heads": 3, "v_intermediate_size": 10, "bi_hidden_size": 8,
    "bi_num_attention_heads": 4, "v_biattention_id": [0, 1], "t_biattention_id": [1, 2],
}  # fmt: skip
ONE_STREAM: dict[str, Any] = {
    "vocab_size": 31, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12,
    "max_position_embeddings": 24, "v_feature_size": 5, "v_target_size": 4,
}  # fmt: skip


def two_streams() -> nn.Module:
    torch.manual_seed(0)
    return ViLBertForPreTraining(ViLBertConfig(**TWO_STREAMS))


def one_stream() -> nn.Module:
    torch.manual_seed(0)
    return SingleStreamForPreTraining(SingleStreamConfig(**ONE_STREAM))


BOTH = pytest.mark.parametrize("build", [two_streams, one_stream])


def learning(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that are not frozen: two dense layers of co-attention that nothing reads always are."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
