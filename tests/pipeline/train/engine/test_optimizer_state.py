"""The optimizer's state by name, and training on from a checkpoint bit by bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from vilbert.pipeline.train.engine.optimizer import build_optimizer, set_step
from vilbert.pipeline.train.engine.optimizer_settings import OptimizerSettings
from vilbert.pipeline.train.run.checkpoint_manifest import CheckpointError
from vilbert.pipeline.train.run.checkpoints import (
    load_checkpoint,
    optimizer_tensors,
    restore_optimizer,
    save_checkpoint,
)

SETTINGS = OptimizerSettings(learning_rate=0.05, bias_correction=False)


def small_model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 2))


def train(model: nn.Module, optimizer: torch.optim.Optimizer, wanted: range) -> list[float]:
    """Return the losses of steps, whose batches their numbers decide."""
    losses = []
    for step in wanted:
        batch = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        set_step(optimizer, SETTINGS, factor=1 / (step + 1), step=step)
        loss = model(batch).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("stop", [0, 1, 7])
def test_training_on_is_bitwise_the_undisturbed_run(tmp_path: Path, stop: int) -> None:
    model = small_model()
    undisturbed = train(model, build_optimizer(model, SETTINGS, from_bert=False), range(12))

    first = small_model()
    optimizer = build_optimizer(first, SETTINGS, from_bert=False)
    assert len(optimizer.param_groups) == 2
    before = train(first, optimizer, range(stop))
    path = save_checkpoint(
        tmp_path, stop, model=first.state_dict(), optimizer=optimizer_tensors(first, optimizer), info={}
    )

    resumed = small_model(seed=99)
    optimizer = build_optimizer(resumed, SETTINGS, from_bert=False)
    _, weights, state = load_checkpoint(path)
    resumed.load_state_dict(weights)
    restore_optimizer(resumed, optimizer, state)
    assert before + train(resumed, optimizer, range(stop, 12)) == undisturbed
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), resumed.parameters(), strict=True))


def trained() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = small_model()
    optimizer = build_optimizer(model, SETTINGS, from_bert=False)
    train(model, optimizer, range(3))
    return model, optimizer


def test_the_state_is_kept_by_name_with_its_step() -> None:
    model, optimizer = trained()
    found = optimizer_tensors(model, optimizer)
    assert set(found) == {
        f"{name}/{key}" for name, _ in model.named_parameters() for key in ("step", "exp_avg", "exp_avg_sq")
    }
    assert found["0.weight/step"].item() == 3


def test_a_restored_state_shares_no_memory_with_what_was_read() -> None:
    model, optimizer = trained()
    kept = {name: value.clone() for name, value in optimizer_tensors(model, optimizer).items()}
    given = {name: value.clone() for name, value in kept.items()}
    other = small_model()
    optimizer = build_optimizer(other, SETTINGS, from_bert=False)
    restore_optimizer(other, optimizer, given)
    train(other, optimizer, range(3, 5))
    assert all(torch.equal(given[name], kept[name]) for name in kept)


def test_restoring_keeps_the_groups_settings() -> None:
    model, optimizer = trained()
    state = optimizer_tensors(model, optimizer)
    other = small_model()
    slower = build_optimizer(other, OptimizerSettings(learning_rate=1e-3), from_bert=False)
    restore_optimizer(other, slower, state)
    assert {group["base_lr"] for group in slower.param_groups} == {1e-3}
    assert all(group["names"] for group in slower.param_groups)


def test_a_parameter_without_a_state_stays_without() -> None:
    model, optimizer = trained()
    state = {
        name: value for name, value in optimizer_tensors(model, optimizer).items() if not name.startswith("3.bias/")
    }
    other = small_model()
    optimizer = build_optimizer(other, SETTINGS, from_bert=False)
    restore_optimizer(other, optimizer, state)
    assert optimizer_tensors(other, optimizer).keys() == state.keys()


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (nn.Sequential(nn.Linear(4, 6)), "1.bias: the optimizer has no such parameter"),
        (nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 2)), "0.weight: .* another shape"),
    ],
)
def test_the_state_of_another_model_is_refused(other: nn.Module, message: str) -> None:
    state = optimizer_tensors(*trained())
    with pytest.raises(CheckpointError, match=message):
        restore_optimizer(other, build_optimizer(other, SETTINGS, from_bert=False), state)
