"""Steps that are not finite, found after others have been made."""

from __future__ import annotations

import signal
from collections.abc import Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from vilbert.pipeline.errors import NonFiniteError
from vilbert.pipeline.train.engine import loop
from vilbert.pipeline.train.engine.distributed import Group
from vilbert.pipeline.train.engine.finite import StepResult, Unchecked
from vilbert.pipeline.train.engine.step import Losses


def result(step: int, loss: float, norm: float = 1.0) -> StepResult:
    losses = Losses(sums=torch.tensor([1.0, loss]), counts=torch.tensor([1, 1]), unread=torch.tensor(0))
    return StepResult(step=step, losses=losses, norm=torch.tensor(norm))


def test_the_first_bad_step_is_named_once() -> None:
    unchecked = Unchecked()
    assert unchecked.first_bad() is None
    for found in (result(3, 0.5), result(4, 0.5, norm=float("inf")), result(5, float("nan")), result(6, 1.0)):
        unchecked.add(found, found.finite)
    bad = unchecked.first_bad()
    assert bad is not None
    assert bad.step == 4
    assert unchecked.first_bad() is None


def test_the_fused_optimizer_leaves_out_a_step_that_is_not_finite() -> None:
    """What the loop relies on where it does not look: parameters, moments and the count of updates stand still."""
    parameter = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.AdamW([parameter], lr=0.1, fused=True)
    parameter.grad = torch.ones(3)
    optimizer.step()
    before = [parameter.detach().clone(), *(value.clone() for value in optimizer.state[parameter].values())]
    for found_inf, same in ((1.0, True), (0.0, False)):
        parameter.grad = torch.full((3,), float("nan") if same else 1.0)
        optimizer.found_inf = torch.tensor(found_inf)  # type: ignore[attr-defined]
        optimizer.step()
        after = [parameter.detach(), *optimizer.state[parameter].values()]
        assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True)) is same


def test_steps_are_looked_at_before_the_checkpoint_that_a_signal_asks_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a GPU, between two steps that are logged: the checkpoint would count a step that was left out."""

    def train_batches(steps: range) -> Generator[list[Any], None, None]:
        yield from ([] for _ in steps)

    def train_step(training: loop.Training, parts: list[Any], on_gpu: None) -> tuple[Losses, torch.Tensor]:
        bad = result(training.step, float("nan"))
        training.unchecked.add(bad, bad.finite)
        signal.raise_signal(signal.SIGTERM)
        return bad.losses, bad.norm

    never = dict.fromkeys(("log_every", "eval_every", "checkpoint_every"), 100)
    training = loop.Training(
        settings=cast(
            Any,
            SimpleNamespace(
                **never,
                batch_size=4,
                peak_tflops=1.0,
                profile=0,
                output=tmp_path,
                non_finite="stop",
                num_workers=0,
                keep=1,
                async_checkpoint=True,
            ),
        ),
        group=Group(rank=0, world=1, device=torch.device("cuda")),
        model=cast(Any, SimpleNamespace(config=None)),
        wrapped=cast(Any, None),
        optimizer=cast(Any, None),
        objective=cast(Any, SimpleNamespace(parts=("words", "regions"))),
        total_steps=10,
        train_batches=train_batches,
        eval_batches=None,
        description={},
    )
    saved: list[int] = []
    monkeypatch.setattr(loop, "train_step", train_step)
    monkeypatch.setattr(loop, "save", lambda training, *_, **__: saved.append(training.step))
    with pytest.raises(NonFiniteError, match="step 0: the loss or a gradient is not finite"):
        loop.run_steps(training, None, None)
    assert saved == []
