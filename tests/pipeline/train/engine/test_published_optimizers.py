"""The optimizer, as the recipes set it, against the published ones written out."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from vilbert import pipeline
from vilbert.pipeline.train.engine.optimizer import build_optimizer, clip_gradients, parameter_groups, set_step
from vilbert.pipeline.train.engine.optimizer_settings import OptimizerSettings
from vilbert.pipeline.train.engine.schedule import ScheduleSettings, factor_at

from .tiny_models import BOTH, learning, two_streams

BETA = OptimizerSettings(
    epsilon=1e-6, bias_correction=False, clip_by="parameter", learning_rate=1e-3, decay="biases_and_norms"
)
MULTI_TASK = OptimizerSettings(
    beta2=0.98, epsilon_hat=True, clip=0.0, text_learning_rate_factor=1.0, learning_rate=1e-3
)
STEPS = 20
RECIPES = Path(pipeline.__file__).parent / "recipes" / "pretrain"


def train(
    model: nn.Module, settings: OptimizerSettings, factors: list[float], *, scale: float = 1.0
) -> dict[str, Tensor]:
    """Return the parameters after a step for each factor, with random gradients that a seed decides."""
    optimizer = build_optimizer(model, settings, from_bert=True)
    for step, factor in enumerate(factors):
        draw_gradients(model, step, scale)
        set_step(optimizer, settings, factor=factor, step=step)
        clip_gradients(model.parameters(), settings)
        optimizer.step()
    return {name: parameter.detach().double() for name, parameter in learning(model).items()}


def draw_gradients(model: nn.Module, step: int, scale: float = 1.0) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in learning(model).values():
        parameter.grad = torch.randn(parameter.shape, generator=generator) * scale


def rate_and_decay(name: str, settings: OptimizerSettings) -> tuple[float, float]:
    """Return what the reference gives a parameter: told by its name alone, as there."""
    slow = name.startswith(("bert.embeddings.", "bert.encoder.layer."))
    spared = name.endswith("bias") or "LayerNorm" in name
    rate = settings.learning_rate * (settings.text_learning_rate_factor if slow else 1.0)
    return rate, settings.weight_decay if spared == (settings.decay == "biases_and_norms") else 0.0


def bert_adam(
    model: nn.Module, settings: OptimizerSettings, factors: list[float], *, scale: float
) -> dict[str, Tensor]:
    """Do BertAdam's step of pytorch-pretrained-bert 0.6.2, in double precision."""
    values = {name: parameter.detach().double() for name, parameter in learning(model).items()}
    first = {name: torch.zeros_like(value) for name, value in values.items()}
    second = {name: torch.zeros_like(value) for name, value in values.items()}
    for step, factor in enumerate(factors):
        draw_gradients(model, step, scale)
        for name, parameter in learning(model).items():
            assert parameter.grad is not None
            gradient = parameter.grad.double()
            gradient = gradient * min(1.0, 1.0 / (gradient.norm().item() + 1e-6))
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            update = first[name] / (second[name].sqrt() + 1e-6)
            rate, decay = rate_and_decay(name, settings)
            values[name] = values[name] - rate * factor * (update + decay * values[name])
    return values


def transformers_adamw(
    model: nn.Module, settings: OptimizerSettings, factors: list[float], *, scale: float
) -> dict[str, Tensor]:
    """Do the step of pytorch_transformers 1.0's AdamW with correct_bias, in double precision."""
    values = {name: parameter.detach().double() for name, parameter in learning(model).items()}
    first = {name: torch.zeros_like(value) for name, value in values.items()}
    second = {name: torch.zeros_like(value) for name, value in values.items()}
    for step, factor in enumerate(factors):
        draw_gradients(model, step, scale)
        for name, parameter in learning(model).items():
            assert parameter.grad is not None
            gradient = parameter.grad.double()
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.98 * second[name] + 0.02 * gradient**2
            rate, decay = rate_and_decay(name, settings)
            size = rate * factor * math.sqrt(1 - 0.98 ** (step + 1)) / (1 - 0.9 ** (step + 1))
            values[name] = values[name] - size * first[name] / (second[name].sqrt() + 1e-8)
            values[name] = values[name] - rate * factor * decay * values[name]
    return values


def largest_difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    return max((ours[name] - theirs[name]).abs().max().item() for name in ours)


# Gradients of 1, and as small as the epsilons: then the place at which these are added decides the update.
SCALES = pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-7])


@BOTH
@SCALES
def test_equals_bert_adam(build: Callable[[], nn.Module], scale: float) -> None:
    factors = [factor_at(step, STEPS, ScheduleSettings()) for step in range(STEPS)]
    ours = train(build(), BETA, factors, scale=scale)
    assert largest_difference(ours, bert_adam(build(), BETA, factors, scale=scale)) < 1e-6


@BOTH
@SCALES
def test_equals_pytorch_transformers_adamw(build: Callable[[], nn.Module], scale: float) -> None:
    # Its scheduler stepped before the optimizer: the first update had the second factor, the last one none.
    factors = [factor_at(step + 1, STEPS, ScheduleSettings()) for step in range(STEPS)]
    ours = train(build(), MULTI_TASK, factors, scale=scale)
    assert largest_difference(ours, transformers_adamw(build(), MULTI_TASK, factors, scale=scale)) < 1e-6


@pytest.mark.parametrize(
    "changes",
    [
        {"bias_correction": True}, {"epsilon": 1e-8}, {"clip_by": "global"}, {"clip": 0.0}, {"decay": "weights"},
        {"text_learning_rate_factor": 1.0},
    ],
    ids=str,
)  # fmt: skip
def test_each_setting_of_vilbert_beta_is_felt(changes: dict[str, Any]) -> None:
    """The comparison with BertAdam would notice any of its settings missing."""
    factors = [factor_at(step, STEPS, ScheduleSettings()) for step in range(STEPS)]
    other = OptimizerSettings(**{**vars(BETA), **changes})
    scale = 1e-7 if "epsilon" in changes else 1.0
    ours = train(two_streams(), other, factors, scale=scale)
    assert largest_difference(ours, bert_adam(two_streams(), BETA, factors, scale=scale)) > 1e-6


def test_the_place_of_epsilon_is_felt() -> None:
    factors = [1.0] * STEPS
    ours = train(two_streams(), OptimizerSettings(**{**vars(MULTI_TASK), "epsilon_hat": False}), factors, scale=1e-7)
    assert largest_difference(ours, transformers_adamw(two_streams(), MULTI_TASK, factors, scale=1e-7)) > 1e-5


def test_by_default_it_is_torchs_fused_adamw() -> None:
    settings = OptimizerSettings(clip=0.0)
    ours = train(two_streams(), settings, [0.5] * STEPS)
    model = two_streams()
    groups = [
        {key: group[key] for key in ("params", "weight_decay")} | {"lr": group["lr"] * 0.5}
        for group in parameter_groups(model, settings, from_bert=True)
    ]
    optimizer = torch.optim.AdamW(groups, fused=True)
    for step in range(STEPS):
        draw_gradients(model, step)
        optimizer.step()
    theirs = {name: parameter.detach().double() for name, parameter in learning(model).items()}
    assert largest_difference(ours, theirs) == 0.0


@pytest.mark.parametrize("settings", [BETA, MULTI_TASK, OptimizerSettings()], ids=["beta", "multi_task", "default"])
def test_a_factor_of_zero_moves_nothing(settings: OptimizerSettings) -> None:
    before = {name: parameter.detach().double() for name, parameter in learning(two_streams()).items()}
    assert largest_difference(train(two_streams(), settings, [0.0]), before) == 0.0


def test_settings_of_a_step_do_not_depend_on_the_steps_before() -> None:
    model = two_streams()
    walked, jumped = (build_optimizer(model, BETA, from_bert=True) for _ in range(2))
    for step in range(8):
        set_step(walked, BETA, factor=0.1 * (step + 1), step=step)
    set_step(jumped, BETA, factor=0.1 * 8, step=7)
    for ours, theirs in zip(walked.param_groups, jumped.param_groups, strict=True):
        assert [ours[key] for key in ("lr", "eps", "weight_decay")] == [
            theirs[key] for key in ("lr", "eps", "weight_decay")
        ]


def recipe(name: str) -> dict[str, Any]:
    options = yaml.safe_load((RECIPES / f"{name}.yaml").read_text(encoding="utf-8"))
    return {option.replace("-", "_"): value for option, value in options.items()}


def optimizer_of(name: str) -> OptimizerSettings:
    fields = OptimizerSettings.__dataclass_fields__
    return OptimizerSettings(**{key: value for key, value in recipe(name).items() if key in fields})


def test_the_default_recipe_is_the_default() -> None:
    assert optimizer_of("default") == OptimizerSettings()


@pytest.mark.parametrize(("name", "settings"), [("vilbert_beta", BETA), ("vilbert_multi_task", MULTI_TASK)])
def test_recipes_are_what_was_compared_with_the_published_optimizers(name: str, settings: OptimizerSettings) -> None:
    assert optimizer_of(name) == OptimizerSettings(**{**vars(settings), "learning_rate": 1e-4})


@pytest.mark.parametrize("name", ["default", "paper", "vilbert_beta", "vilbert_multi_task"])
def test_recipes_hold_plain_values(name: str) -> None:
    """YAML reads 1e-4 as a word, not as a number."""
    words = {"model", "tokenizer", "init_from", "decay", "clip_by", "schedule", "overlap_masking"}
    values = recipe(name)
    assert {key for key, value in values.items() if isinstance(value, str)} <= words
    assert json.loads(json.dumps(values)) == values
