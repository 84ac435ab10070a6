"""Parameter groups over both models, and the clipping of gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from vilbert.model.config import ViLBertConfig
from vilbert.model.heads import BetaClassifier
from vilbert.model.vilbert import ViLBertForPreTraining
from vilbert.pipeline.train.engine.optimizer import (
    build_optimizer,
    clip_gradients,
    level_counts,
    parameter_groups,
    set_step,
    trained_parameters,
)
from vilbert.pipeline.train.engine.optimizer_settings import OptimizerSettings

from .tiny_models import BOTH, TWO_STREAMS, learning, two_streams


def group_of(groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {name: group for group in groups for name in group["names"]}


@BOTH
@pytest.mark.parametrize("decay", ["weights", "biases_and_norms"])
@pytest.mark.parametrize("from_bert", [True, False])
def test_each_parameter_is_in_exactly_one_group(build: Callable[[], nn.Module], decay: Any, from_bert: bool) -> None:
    model = build()
    groups = parameter_groups(model, OptimizerSettings(decay=decay), from_bert=from_bert)
    grouped = [parameter for group in groups for parameter in group["params"]]
    assert len(grouped) == len({id(parameter) for parameter in grouped})
    assert {id(parameter) for parameter in grouped} == {id(parameter) for parameter in learning(model).values()}
    named = dict(model.named_parameters())
    assert all(
        named[name] is parameter
        for group in groups
        for name, parameter in zip(group["names"], group["params"], strict=True)
    )


@BOTH
def test_weights_decay_and_biases_and_norms_do_not(build: Callable[[], nn.Module]) -> None:
    for name, group in group_of(parameter_groups(build(), OptimizerSettings(), from_bert=True)).items():
        spared = name.endswith("bias") or "LayerNorm" in name
        assert group["weight_decay"] == (0.0 if spared else 0.01), name


@BOTH
def test_the_inverted_decay_is_the_other_way_round(build: Callable[[], nn.Module]) -> None:
    model = build()
    sound = group_of(parameter_groups(model, OptimizerSettings(), from_bert=True))
    inverted = group_of(parameter_groups(model, OptimizerSettings(decay="biases_and_norms"), from_bert=True))
    assert all(sound[name]["weight_decay"] + inverted[name]["weight_decay"] == 0.01 for name in sound)


def test_the_norms_of_co_attention_outputs_do_not_decay() -> None:
    groups = group_of(parameter_groups(two_streams(), OptimizerSettings(), from_bert=True))
    norms = [name for name in groups if ".biOutput.LayerNorm" in name]
    assert len(norms) == 8
    assert {groups[name]["weight_decay"] for name in norms} == {0.0}


def test_gains_of_weight_norms_do_not_decay() -> None:
    groups = group_of(parameter_groups(BetaClassifier(3, 4, 2), OptimizerSettings(), from_bert=False))
    assert {name for name, group in groups.items() if group["weight_decay"]} == {"main.0.weight_v", "main.3.weight_v"}


@BOTH
def test_only_what_came_from_bert_is_slow(build: Callable[[], nn.Module]) -> None:
    groups = group_of(parameter_groups(build(), OptimizerSettings(), from_bert=True))
    slow = {name for name, group in groups.items() if group["lr"] == pytest.approx(1e-5)}
    fast = {name for name, group in groups.items() if group["lr"] == 1e-4}
    assert slow | fast == set(groups)
    parts = {".".join(name.split(".")[1:3]) for name in slow}
    assert parts == {
        "embeddings.word_embeddings",
        "embeddings.position_embeddings",
        "embeddings.token_type_embeddings",
        "embeddings.LayerNorm",
        "encoder.layer",
    }
    assert not any(name.startswith(("bert.embeddings", "bert.encoder.layer")) for name in fast)


def test_the_published_list_of_berts_parameters_is_what_is_slow() -> None:
    config = ViLBertConfig(**{**TWO_STREAMS, "num_hidden_layers": 12})
    groups = group_of(parameter_groups(ViLBertForPreTraining(config), OptimizerSettings(), from_bert=True))
    layer = [f"{part}.{end}" for end in ("weight", "bias") for part in (
        "attention.self.query", "attention.self.key", "attention.self.value", "attention.output.dense",
        "attention.output.LayerNorm", "intermediate.dense", "output.dense", "output.LayerNorm",
    )]  # fmt: skip
    published = {f"encoder.layer.{number}.{part}" for number in range(12) for part in layer} | {
        *(f"embeddings.{kind}_embeddings.weight" for kind in ("word", "position", "token_type")),
        *(f"embeddings.LayerNorm.{end}" for end in ("weight", "bias")),
    }
    assert len(published) == 197
    assert {name.removeprefix("bert.") for name, group in groups.items() if group["lr"] < 1e-4} == published


def test_names_without_the_prefix_are_berts_too() -> None:
    model = two_streams()
    bare = group_of(parameter_groups(model.bert, OptimizerSettings(), from_bert=True))  # type: ignore[arg-type]
    whole = group_of(parameter_groups(model, OptimizerSettings(), from_bert=True))
    assert all(whole[f"bert.{name}"]["lr"] == group["lr"] for name, group in bare.items())


def test_task_embeddings_are_not_berts() -> None:
    model = ViLBertForPreTraining(ViLBertConfig(**TWO_STREAMS, task_specific_tokens=True))
    groups = group_of(parameter_groups(model, OptimizerSettings(), from_bert=True))
    assert groups["bert.embeddings.task_embeddings.weight"]["lr"] == 1e-4


@BOTH
def test_nothing_is_slow_in_a_model_that_no_bert_began(build: Callable[[], nn.Module]) -> None:
    assert {group["lr"] for group in parameter_groups(build(), OptimizerSettings(), from_bert=False)} == {1e-4}


@BOTH
def test_a_wrapped_model_has_the_same_groups(build: Callable[[], nn.Module]) -> None:
    model = build()
    wrapped = nn.ModuleDict({"module": model})
    bare = parameter_groups(model, OptimizerSettings(), from_bert=True)
    found = parameter_groups(wrapped, OptimizerSettings(), from_bert=True)
    assert [(group["names"], group["lr"]) for group in found] == [(group["names"], group["lr"]) for group in bare]


@BOTH
def test_tied_weights_come_once_under_their_first_name(build: Callable[[], nn.Module]) -> None:
    model: Any = build()
    assert model.cls.predictions.decoder.weight is model.bert.embeddings.word_embeddings.weight
    names = trained_parameters(model)
    assert "bert.embeddings.word_embeddings.weight" in names
    assert "cls.predictions.decoder.weight" not in names


@BOTH
def test_frozen_parameters_are_left_out(build: Callable[[], nn.Module]) -> None:
    model: Any = build()
    model.bert.embeddings.requires_grad_(False)
    names = group_of(parameter_groups(model, OptimizerSettings(), from_bert=True))
    everything = set(learning(build()))
    assert everything - set(names) == {name for name in everything if name.startswith("bert.embeddings.")}


def test_refuses_a_model_in_which_nothing_learns() -> None:
    with pytest.raises(ValueError, match="no parameter that requires a gradient"):
        parameter_groups(two_streams().requires_grad_(False), OptimizerSettings(), from_bert=False)


def test_refuses_to_slow_what_is_not_there() -> None:
    with pytest.raises(ValueError, match="no parameter is named as those of BERT"):
        parameter_groups(nn.Linear(2, 2), OptimizerSettings(), from_bert=True)


def pair_of_gradients() -> list[nn.Parameter]:
    """Return parameters with gradients of lengths 3 and 4, together 5, and one without."""
    parameters = [nn.Parameter(torch.zeros(size)) for size in (1, 4, 2)]
    parameters[0].grad = torch.tensor([3.0])
    parameters[1].grad = torch.full((4,), 2.0)
    return parameters


@pytest.mark.parametrize(
    ("settings", "lengths"),
    [
        (OptimizerSettings(clip=1.0), (0.6, 0.8)),
        (OptimizerSettings(clip=10.0), (3.0, 4.0)),
        (OptimizerSettings(clip=0.0), (3.0, 4.0)),
        (OptimizerSettings(clip=3.5, clip_by="parameter"), (3.0, 3.5)),
    ],
    ids=str,
)
def test_clips_and_returns_the_length_from_before(settings: OptimizerSettings, lengths: tuple[float, float]) -> None:
    parameters = pair_of_gradients()
    assert clip_gradients(iter(parameters), settings).item() == pytest.approx(5.0)
    assert [p.grad.norm().item() for p in parameters[:2] if p.grad is not None] == pytest.approx(lengths, rel=1e-5)


def test_the_length_says_that_a_gradient_is_no_number() -> None:
    parameters = pair_of_gradients()
    parameters[0].grad = torch.tensor([math.nan])
    assert clip_gradients(parameters, OptimizerSettings()).isnan()


def test_no_gradients_have_no_length() -> None:
    assert clip_gradients([nn.Parameter(torch.zeros(2))], OptimizerSettings()).item() == 0.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("learning_rate", 0.0), ("learning_rate", math.nan), ("epsilon", 0.0), ("weight_decay", -0.1), ("beta1", 1.0),
        ("beta2", -0.5), ("clip", -1.0), ("clip", math.inf), ("text_learning_rate_factor", -1.0),
    ],
)  # fmt: skip
def test_refuses_values_that_train_nothing(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} {value}"):
        OptimizerSettings(**{name: value})  # type: ignore[arg-type]


def test_a_parameter_that_steps_pass_over_is_updated_without_bias_correction_too() -> None:
    """As by the formula: moments that begin at zero and are not corrected, of its own updates alone."""
    model = nn.ModuleDict({"always": nn.Linear(1, 1, bias=False), "seldom": nn.Linear(1, 1, bias=False)}).double()
    settings = OptimizerSettings(learning_rate=0.01, bias_correction=False, weight_decay=0.0, epsilon=1e-6)
    optimizer = build_optimizer(model, settings, from_bert=False)
    weight = model["seldom"].weight
    expected, mean, square = weight.item(), 0.0, 0.0
    for step in range(60):
        set_step(optimizer, settings, factor=1.0, step=step)
        level_counts(optimizer, step)
        optimizer.zero_grad(set_to_none=True)
        model["always"].weight.grad = torch.ones(1, 1).double()
        if step % 3 == 0:
            gradient = math.sin(step)
            weight.grad = torch.full((1, 1), gradient).double()
            mean = settings.beta1 * mean + (1 - settings.beta1) * gradient
            square = settings.beta2 * square + (1 - settings.beta2) * gradient**2
            expected -= 0.01 * mean / (math.sqrt(square) + 1e-6) if square else 0.0
        optimizer.step()
    assert weight.item() == pytest.approx(expected, rel=1e-6)
