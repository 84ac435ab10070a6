"""Muon: the iteration, one update against its formula, AdamW's parameters untouched, and its state in checkpoints."""

from __future__ import annotations

import copy
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vilbert.pipeline.train.engine.muon import orthogonalize
from vilbert.pipeline.train.engine.optimizer import build_optimizer, level_counts, parameter_groups, set_step
from vilbert.pipeline.train.engine.optimizer_settings import OptimizerSettings
from vilbert.pipeline.train.run.checkpoints import optimizer_tensors, restore_optimizer

from .tiny_models import BOTH, learning, two_streams

SETTINGS = OptimizerSettings(optim="muon", learning_rate=0.01, muon_learning_rate=0.05, weight_decay=0.1)


def set_gradients(model: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in learning(model).values():
        parameter.grad = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        set_step(optimizer, SETTINGS, factor=1 / (step + 1), step=step)
        set_gradients(model, step)
        optimizer.step()


@pytest.mark.parametrize("shape", [(6, 6), (12, 5), (5, 12), (3, 7, 7), (2, 3, 4, 9)])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_singular_values_come_near_one_and_directions_stay(shape: tuple[int, ...], scale: float) -> None:
    matrices = torch.linalg.qr(torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)))[0]
    matrices = matrices @ torch.diag(torch.linspace(0.2, 1, matrices.shape[-1], dtype=torch.float64)) * scale
    found = orthogonalize(matrices)
    assert found.shape == matrices.shape
    assert found.dtype == matrices.dtype
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.6
    assert values.max() < 1.3
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    diagonal = left.mT @ found @ right.mT  # the same singular vectors
    assert torch.allclose(diagonal, torch.diag_embed(torch.diagonal(diagonal, dim1=-2, dim2=-1)), atol=1e-9)


def test_a_gradient_of_zeros_moves_nothing() -> None:
    assert torch.equal(orthogonalize(torch.zeros(2, 4, 3)), torch.zeros(2, 4, 3))


def orthogonal(matrix: np.ndarray) -> np.ndarray:
    """Return `orthogonalize` of one matrix, by its singular value decomposition."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / np.sqrt((values**2).sum())
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return np.asarray(left @ np.diag(values) @ right)


def test_two_updates_are_those_of_the_formula() -> None:
    model = two_streams().double()
    name = "bert.encoder.v_layer.1.intermediate.dense.weight"
    parameter = learning(model)[name]
    expected, momentum = parameter.detach().numpy().copy(), np.zeros(parameter.shape)
    optimizer = build_optimizer(model, SETTINGS, from_bert=False)
    for step in range(2):
        set_step(optimizer, SETTINGS, factor=1 / (step + 1), step=step)
        set_gradients(model, step)
        assert parameter.grad is not None
        gradient = parameter.grad.numpy().copy()
        optimizer.step()
        momentum += 0.05 * (gradient - momentum)
        rate = 0.05 / (step + 1)
        rows, columns = parameter.shape
        update = orthogonal(gradient + 0.95 * (momentum - gradient))
        expected = expected * (1 - rate * 0.1) - rate * max(1, rows / columns) ** 0.5 * update
        np.testing.assert_allclose(parameter.detach().numpy(), expected, atol=1e-6)


@BOTH
def test_matrices_of_layers_are_muons_and_all_else_moves_as_under_adamw(build: Callable[[], nn.Module]) -> None:
    model = build()
    other = copy.deepcopy(model)
    adamw = OptimizerSettings(learning_rate=0.01, weight_decay=0.1)
    muons = {
        name
        for group in parameter_groups(model, SETTINGS, from_bert=False)
        if group.get("muon")
        for name in group["names"]
    }
    assert muons == {
        name for name, value in learning(model).items() if value.ndim == 2 and name.startswith("bert.encoder.")
    }
    train(model, build_optimizer(model, SETTINGS, from_bert=False), range(3))
    train(other, build_optimizer(other, adamw, from_bert=False), range(3))
    for name, value in learning(model).items():
        assert torch.equal(value, learning(other)[name]) == (name not in muons), name


def test_the_text_stream_of_a_bert_learns_at_its_share_of_the_rate() -> None:
    rates = {
        name: group["lr"]
        for group in parameter_groups(two_streams(), SETTINGS, from_bert=True)
        for name in group["names"]
    }
    assert rates["bert.encoder.layer.0.output.dense.weight"] == pytest.approx(0.005)
    assert rates["bert.encoder.v_layer.0.output.dense.weight"] == pytest.approx(0.05)


def test_training_on_from_a_checkpoint_is_bitwise_the_undisturbed_run() -> None:
    undisturbed = two_streams()
    train(undisturbed, build_optimizer(undisturbed, SETTINGS, from_bert=False), range(5))

    first = two_streams()
    optimizer = build_optimizer(first, SETTINGS, from_bert=False)
    train(first, optimizer, range(2))
    state: dict[str, Tensor] = {name: value.clone() for name, value in optimizer_tensors(first, optimizer).items()}
    assert "bert.encoder.layer.0.output.dense.weight/momentum" in state

    resumed = copy.deepcopy(first)
    optimizer = build_optimizer(resumed, SETTINGS, from_bert=False)
    restore_optimizer(resumed, optimizer, state)
    level_counts(optimizer, 2)
    train(resumed, optimizer, range(2, 5))
    for name, value in learning(undisturbed).items():
        assert torch.equal(value, learning(resumed)[name]), name


def test_a_matrix_without_a_gradient_stays() -> None:
    model = two_streams()
    optimizer = build_optimizer(model, SETTINGS, from_bert=False)
    name = "bert.encoder.c_layer.0.biOutput.dense1.weight"
    before = learning(model)[name].detach().clone()
    set_gradients(model, 0)
    learning(model)[name].grad = None
    optimizer.step()
    assert torch.equal(before, learning(model)[name])


def test_a_step_that_is_not_finite_is_left_out_on_the_device() -> None:
    """As torch's fused AdamW does where `found_inf` is 1; where it is 0 the update is the usual one."""
    model, same = two_streams(), two_streams()
    optimizer = build_optimizer(model, SETTINGS, from_bert=False)
    usual = build_optimizer(same, SETTINGS, from_bert=False)
    for step, found_inf in enumerate((1.0, 0.0, 1.0, 0.0)):
        before = {name: value.detach().clone() for name, value in learning(model).items()}
        set_gradients(model, step)
        set_gradients(same, step)
        if found_inf:
            for parameter in learning(model).values():
                parameter.grad = torch.full_like(parameter, float("nan"))
        optimizer.found_inf = torch.tensor(found_inf)  # type: ignore[attr-defined]
        optimizer.step()
        if found_inf:
            assert all(torch.equal(value, before[name]) for name, value in learning(model).items())
        else:
            usual.step()
            for name, value in learning(model).items():
                torch.testing.assert_close(value, learning(same)[name], msg=name)
