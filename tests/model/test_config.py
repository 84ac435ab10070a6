"""Settings: what is refused, what is read from published files, and what a round trip keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoConfig

from vilbert.model.config import IGNORED_KEYS, PRESETS, ViLBertConfig, preset

# The published 6-layer json of vilbert_beta, and what vilbert-multi-task's RoBERTa file has beside or instead.
BETA: dict[str, Any] = {
    "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768,
    "initializer_range": 0.02, "intermediate_size": 3072, "max_position_embeddings": 512, "num_attention_heads": 12,
    "num_hidden_layers": 12, "type_vocab_size": 2, "vocab_size": 30522, "v_feature_size": 2048, "v_target_size": 1601,
    "v_hidden_size": 1024, "v_num_hidden_layers": 6, "v_num_attention_heads": 8, "v_intermediate_size": 1024,
    "bi_hidden_size": 1024, "bi_num_attention_heads": 8, "bi_intermediate_size": 1024, "bi_attention_type": 1,
    "v_attention_probs_dropout_prob": 0.1, "v_hidden_act": "gelu", "v_hidden_dropout_prob": 0.1,
    "v_initializer_range": 0.02, "pooling_method": "mul", "v_biattention_id": [0, 1, 2, 3, 4, 5],
    "t_biattention_id": [6, 7, 8, 9, 10, 11],
}  # fmt: skip
MULTITASK = BETA | {
    "vocab_size": 50265, "max_position_embeddings": 514, "type_vocab_size": 1, "layer_norm_eps": 1e-12,
    "model": "roberta", "finetuning_task": None, "num_labels": 2, "output_attentions": False,
    "output_hidden_states": False, "torchscript": False,
}  # fmt: skip
REFUSED: tuple[tuple[dict[str, Any], str], ...] = (
    ({"hidden_size": 770}, "hidden_size 770 .* num_attention_heads 12"),
    ({"v_hidden_size": 1020}, "v_hidden_size 1020 .* v_num_attention_heads 8"),
    ({"bi_hidden_size": 1020}, "bi_hidden_size 1020 .* bi_num_attention_heads 8"),
    ({"visual_target": 1}, "visual_target 1 .*v_target_size .*2048"),
    ({"visual_target": 2, "v_target_size": 7}, "visual_target 2 .*v_target_size .*7"),
    ({"v_biattention_id": [0, 1]}, "v_biattention_id .* t_biattention_id"),
    ({"v_biattention_id": [], "t_biattention_id": []}, "at least one"),
    ({"v_biattention_id": [0, 1, 2, 3, 5, 4]}, "v_biattention_id .*ascending"),
    ({"t_biattention_id": [6, 7, 8, 9, 10, 12]}, "t_biattention_id .*num_hidden_layers 12"),
    ({"t_biattention_id": [-1, 7, 8, 9, 10, 11]}, "t_biattention_id .*-1"),
    ({"v_num_hidden_layers": 5}, "v_biattention_id .*v_num_hidden_layers 5"),
    ({"fixed_t_layer": 7}, "fixed_t_layer 7"),
    ({"fixed_t_layer": -1}, "fixed_t_layer -1"),
    ({"fixed_v_layer": 1}, "fixed_v_layer 1"),
    ({"num_attention_heads": 0}, "num_attention_heads 0: expected 1 or more"),
    ({"v_hidden_dropout_prob": 1.5}, "v_hidden_dropout_prob 1.5"),
    ({"hidden_act": "foo"}, "hidden_act 'foo'.*gelu"),
    ({"pad_token_id": 30522}, "pad_token_id 30522.*vocab_size"),
    ({"hidden_size": "768"}, "hidden_size.*int"),
    ({"hidden_dropout_prob": "none"}, "hidden_dropout_prob"),
    ({"fusion_method": "max"}, "fusion_method.*max"),
    ({"text_model": "gpt"}, "text_model.*gpt"),
    ({"task_heads": "mine"}, "task_heads.*mine"),
    ({"visual_target": 3, "v_target_size": 2048}, "visual_target.*3"),
)


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_a_bad_value_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=f"(?s){message}"):  # the strict config's own types of error
        ViLBertConfig(**changes)


def test_the_published_file_is_the_default() -> None:
    assert ViLBertConfig.from_reference(BETA) == ViLBertConfig() == preset("bert_base_6layer_6conect")


def test_the_roberta_file_pads_with_one() -> None:
    config = ViLBertConfig.from_reference(MULTITASK)
    assert config == preset("roberta_base_6layer_6connect")
    assert (config.text_model, config.pad_token_id) == ("roberta", 1)


def test_settings_of_the_code_are_read_too() -> None:
    regression = {"predict_feature": True, "v_target_size": 2048}
    assert ViLBertConfig.from_reference(BETA | regression).visual_target == 1
    assert ViLBertConfig.from_reference(BETA | {"predict_feature": False}).visual_target == 0
    changed = {"with_coattention": False, "dynamic_attention": True, "fixed_t_layer": 3, "task_specific_tokens": True}
    config = ViLBertConfig.from_reference(BETA | changed, task_heads="beta")
    assert {name: getattr(config, name) for name in changed} == changed
    assert config.task_heads == "beta"


def test_keys_without_effect_are_dropped() -> None:
    config = ViLBertConfig.from_reference(BETA | dict.fromkeys(IGNORED_KEYS))
    assert config == ViLBertConfig()
    assert "bi_intermediate_size" not in config.to_dict()


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValueError, match="hiden_size, v_hiden_size"):
        ViLBertConfig.from_reference(BETA | {"v_hiden_size": 8, "hiden_size": 8})


def test_an_unknown_preset_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"no configuration 'bert_base'.*bert_base_6layer_6conect"):
        preset("bert_base")


@pytest.mark.parametrize("name", PRESETS)
def test_a_round_trip_keeps_every_setting(name: str, tmp_path: Path) -> None:
    config = preset(name, num_answers=17, fusion_method="sum", hidden_dropout_prob=0)
    config.save_pretrained(tmp_path)
    for kind in (ViLBertConfig, AutoConfig):
        read = kind.from_pretrained(tmp_path)
        assert type(read) is ViLBertConfig
        assert read.to_dict() | {"_name_or_path": ""} == config.to_dict() | {"_name_or_path": ""}
