"""The sizes that a file's parameters state, beside those of a configuration."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vilbert.model.architecture import count_layers, count_parameters, differences
from vilbert.model.checkpoint import CheckpointError, load_checkpoint
from vilbert.model.config import PRESETS, ViLBertConfig, preset
from vilbert.model.config_file import ConfigError, make_config, require_memory
from vilbert.model.tasks import ViLBertForTasks

from .test_checkpoint import SIZES, assert_same, copies, make


def shapes(**changes: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in make(**changes).state_dict().items()}


def test_a_model_does_not_differ_from_its_own_configuration() -> None:
    for changes in ({}, {"task_heads": "beta"}, {"task_specific_tokens": True}):
        assert differences(ViLBertConfig(**{**SIZES, **changes}), shapes(**changes)) == []
    assert count_layers(shapes()) == {"num_hidden_layers": 3, "v_num_hidden_layers": 2, "v_biattention_id": 2}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"v_biattention_id": [1], "t_biattention_id": [2]}, "the file has 1 co-attention layer, the configuration 2"),
        ({"num_hidden_layers": 5}, "the file has 5 text layers, the configuration 3"),
        ({"v_num_hidden_layers": 4}, "the file has 4 image layers, the configuration 2"),
        ({"vocab_size": 40}, "the file has 40 words in its vocabulary, the configuration 31"),
        ({"hidden_size": 16}, "the file has a text hidden size of 16, the configuration 8"),
        ({"v_hidden_size": 8}, "the file has an image hidden size of 8, the configuration 4"),
        ({"bi_hidden_size": 8}, "the file has a co-attention hidden size of 8, the configuration 4"),
        ({"v_feature_size": 9}, "the file has a region feature size of 9, the configuration 6"),
        ({"intermediate_size": 13}, "the file has a text intermediate size of 13, the configuration 12"),
        ({"max_position_embeddings": 12}, "the file has 12 text positions, the configuration 10"),
        ({"type_vocab_size": 1}, "the file has 1 token types, the configuration 2"),
        ({"num_answers": 9}, "the file has 9 answers, the configuration 7; skip_mismatched_heads"),
        ({"num_gqa_answers": 9}, "the file has 9 GQA answers, the configuration 3; skip_mismatched_heads"),
        ({"v_target_size": 9}, "the file has 9 region classes, the configuration 5; skip_mismatched_heads"),
    ],
)
def test_a_checkpoint_of_other_sizes_is_described_by_them(changes: dict[str, Any], said: str) -> None:
    model = make(seed=2)
    before = copies(model)
    with pytest.raises(CheckpointError) as refused:
        load_checkpoint(model, copies(make(**changes)))
    assert said in str(refused.value)
    assert "allow_unexpected" not in str(refused.value)
    assert "allow_missing" not in str(refused.value)
    assert_same(model, before)


def test_layers_beyond_the_configuration_are_dropped_where_allowed() -> None:
    state = copies(make(seed=1, num_hidden_layers=5))
    report = load_checkpoint(make(seed=2), state, allow_unexpected=True)
    assert all(name.startswith(("bert.encoder.layer.3.", "bert.encoder.layer.4.")) for name in report.unexpected)
    assert len(report.unexpected) == 2 * 16


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_tensors_that_are_not_finite_are_named(value: float) -> None:
    state = copies(make(seed=1))
    state["vil_logit.weight"][0, 0] = value
    state["bert.t_pooler.dense.bias"][1] = value
    model = make(seed=2)
    before = copies(model)
    with pytest.raises(
        CheckpointError, match=r"2 tensors hold NaN or infinity: bert\.t_pooler\.dense\.bias, vil_logit\.weight"
    ):
        load_checkpoint(model, state)
    assert_same(model, before)
    # What is not loaded does not matter.
    others = {**copies(make(seed=1)), "classifier.weight": torch.full((2,), value)}
    assert load_checkpoint(model, others).unused == ("classifier.weight",)


@pytest.mark.parametrize("name", PRESETS)
def test_parameters_are_counted_without_a_model(name: str) -> None:
    config = preset(name)
    with torch.device("meta"):
        built = sum(parameter.numel() for parameter in ViLBertForTasks(config).parameters())
    assert count_parameters(config) == pytest.approx(built, rel=0.02)


def test_a_configuration_larger_than_the_memory_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"makes a model of [\d,]+ parameters"):
        require_memory(make_config({**SIZES, "hidden_size": 10**9, "num_attention_heads": 1}))
    require_memory(make_config(SIZES))
