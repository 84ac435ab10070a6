"""Names, shapes and counts of parameters against those of the published files, without a byte of weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from vilbert.model.config import PRESETS, preset
from vilbert.model.tasks import ViLBertForTasks
from vilbert.model.vilbert import ViLBertForPreTraining, ViLBertModel

COUNTS = {
    "bert_base_2layer_2conect": 160_782_973,
    "bert_base_4layer_4conect": 205_413_501,
    "bert_base_6layer_6conect": 250_044_029,
    "bert_base_8layer_8conect": 294_674_557,
    "bert_large_2layer_2conect": 396_672_381,
    "bert_large_4layer_4conect": 451_270_013,
    "bert_large_6layer_6conect": 505_867_645,
}
TASKS: tuple[tuple[dict[str, Any], int, int], ...] = (
    ({"task_heads": "beta"}, 545, 258_557_371),
    ({"task_heads": "multitask"}, 559, 268_013_499),
    ({"task_heads": "multitask", "task_specific_tokens": True}, 560, 268_028_859),
)
Shapes = dict[str, tuple[int, ...]]


def count(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def shapes(model: nn.Module) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def affine(name: str, *weight: int) -> Shapes:
    return {f"{name}.weight": weight, f"{name}.bias": weight[:1]}


def stream_layer(name: str, width: int, inner: int) -> Shapes:
    found: Shapes = {}
    for part in ("query", "key", "value"):
        found |= affine(f"{name}.attention.self.{part}", width, width)
    found |= affine(f"{name}.attention.output.dense", width, width)
    found |= affine(f"{name}.attention.output.LayerNorm", width)
    found |= affine(f"{name}.intermediate.dense", inner, width)
    found |= affine(f"{name}.output.dense", width, inner)
    return found | affine(f"{name}.output.LayerNorm", width)


def connection_layer(name: str) -> Shapes:
    found: Shapes = {}
    for part in ("query", "key", "value"):
        found |= affine(f"{name}.biattention.{part}1", 1024, 1024)
        found |= affine(f"{name}.biattention.{part}2", 1024, 768)
    for part in ("dense1", "q_dense1"):
        found |= affine(f"{name}.biOutput.{part}", 1024, 1024)
    for part in ("dense2", "q_dense2"):
        found |= affine(f"{name}.biOutput.{part}", 768, 1024)
    found |= affine(f"{name}.biOutput.LayerNorm1", 1024) | affine(f"{name}.biOutput.LayerNorm2", 768)
    found |= affine(f"{name}.v_intermediate.dense", 1024, 1024) | affine(f"{name}.v_output.dense", 1024, 1024)
    found |= affine(f"{name}.t_intermediate.dense", 3072, 768) | affine(f"{name}.t_output.dense", 768, 3072)
    return found | affine(f"{name}.v_output.LayerNorm", 1024) | affine(f"{name}.t_output.LayerNorm", 768)


def published_backbone() -> Shapes:
    """The 6-layer pre-training file."""
    found: Shapes = {
        "bert.embeddings.word_embeddings.weight": (30522, 768),
        "bert.embeddings.position_embeddings.weight": (512, 768),
        "bert.embeddings.token_type_embeddings.weight": (2, 768),
        "cls.predictions.bias": (30522,),
        "cls.predictions.decoder.weight": (30522, 768),
    }
    found |= affine("bert.embeddings.LayerNorm", 768)
    found |= affine("bert.v_embeddings.image_embeddings", 1024, 2048)
    found |= affine("bert.v_embeddings.image_location_embeddings", 1024, 5)
    found |= affine("bert.v_embeddings.LayerNorm", 1024)
    for layer in range(12):
        found |= stream_layer(f"bert.encoder.layer.{layer}", 768, 3072)
    for layer in range(6):
        found |= stream_layer(f"bert.encoder.v_layer.{layer}", 1024, 1024)
        found |= connection_layer(f"bert.encoder.c_layer.{layer}")
    found |= affine("bert.t_pooler.dense", 1024, 768) | affine("bert.v_pooler.dense", 1024, 1024)
    found |= affine("cls.predictions.transform.dense", 768, 768)
    found |= affine("cls.predictions.transform.LayerNorm", 768)
    found |= affine("cls.bi_seq_relationship", 2, 1024)
    found |= affine("cls.imagePredictions.transform.dense", 1024, 1024)
    found |= affine("cls.imagePredictions.transform.LayerNorm", 1024)
    return found | affine("cls.imagePredictions.decoder", 1601, 1024)


def published_heads(task_heads: str) -> Shapes:
    found = affine("vil_logit", 1, 1024) | affine("vision_logit", 1, 1024) | affine("linguisic_logit", 1, 768)
    if task_heads == "beta":
        for number, (outputs, inputs) in ((0, (2048, 1024)), (3, (3129, 2048))):
            name = f"vil_prediction.main.{number}"
            found |= {f"{name}.bias": (outputs,), f"{name}.weight_g": (), f"{name}.weight_v": (outputs, inputs)}
        return found
    for name, inputs, outputs in (
        ("vil_prediction", 1024, 3129),
        ("vil_prediction_gqa", 1024, 1533),
        ("vil_binary_prediction", 2048, 2),
    ):
        found |= affine(f"{name}.logit_fc.0", 2048, inputs) | affine(f"{name}.logit_fc.2", 2048)
        found |= affine(f"{name}.logit_fc.3", outputs, 2048)
    return found | affine("vil_tri_prediction", 3, 1024)


@pytest.mark.parametrize("name", COUNTS)
def test_count_of_every_published_configuration(name: str) -> None:
    with torch.device("meta"):
        model = ViLBertForPreTraining(preset(name))
    assert count(model) == COUNTS[name]


def test_names_and_shapes_of_the_pretraining_model() -> None:
    with torch.device("meta"):
        model = ViLBertForPreTraining(preset("bert_base_6layer_6conect"))
    assert shapes(model) == published_backbone()
    assert len(model.state_dict()) == 533
    assert count(model.bert) == 246_726_656
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight


@pytest.mark.parametrize(("changes", "keys", "parameters"), TASKS)
def test_names_and_shapes_of_the_task_models(changes: dict[str, Any], keys: int, parameters: int) -> None:
    with torch.device("meta"):
        model = ViLBertForTasks(preset("bert_base_6layer_6conect", **changes))
    expected = published_backbone() | published_heads(changes["task_heads"])
    if changes.get("task_specific_tokens"):
        expected["bert.embeddings.task_embeddings.weight"] = (20, 768)
    assert shapes(model) == expected
    assert len(expected) == keys
    assert count(model) == parameters


def test_dynamic_attention_adds_its_gates() -> None:
    with torch.device("meta"):
        model = ViLBertForPreTraining(preset("bert_base_6layer_6conect", dynamic_attention=True))
    gates: Shapes = {}
    for layer in range(6):
        for gate in ("dyLinear_q", "dyLinear_k"):
            gates |= affine(f"bert.encoder.v_layer.{layer}.attention.self.{gate}", 1024, 768)
    assert shapes(model) == published_backbone() | gates


def test_the_ablation_keeps_every_parameter() -> None:
    with torch.device("meta"):
        model = ViLBertForPreTraining(preset("bert_base_6layer_without_coattention"))
    assert shapes(model) == published_backbone()


def test_the_roberta_configuration_differs_in_its_embeddings_alone() -> None:
    with torch.device("meta"):
        model = ViLBertForPreTraining(preset("roberta_base_6layer_6connect"))
    expected = published_backbone() | {
        "bert.embeddings.word_embeddings.weight": (50265, 768),
        "bert.embeddings.position_embeddings.weight": (514, 768),
        "bert.embeddings.token_type_embeddings.weight": (1, 768),
        "cls.predictions.bias": (50265,),
        "cls.predictions.decoder.weight": (50265, 768),
    }
    assert shapes(model) == expected


@pytest.mark.parametrize("name", PRESETS)
def test_the_bare_model_has_the_backbone_without_its_prefix(name: str) -> None:
    with torch.device("meta"):
        bare, whole = ViLBertModel(preset(name)), ViLBertForPreTraining(preset(name))
    assert shapes(bare) == shapes(whole.bert)
    assert {f"bert.{key}" for key in bare.state_dict()} == {key for key in whole.state_dict() if key[:5] == "bert."}
