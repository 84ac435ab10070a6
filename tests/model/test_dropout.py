"""Our dropout is dropout: rate, scale, gradient, reproducibility."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from vilbert.model.dropout import Dropout, dropout


@pytest.mark.parametrize("rate", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rate_and_scale(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    count = 400_001
    found = dropout(torch.ones(count, dtype=dtype), rate, training=True)
    kept = torch.tensor(1 / (1 - rate), dtype=dtype)
    assert set(found.unique().tolist()) == {0.0, kept.item()}
    zeroed = (found == 0).sum().item()
    assert abs(zeroed - rate * count) < 5 * math.sqrt(count * rate * (1 - rate))


def test_neighbours_are_independent() -> None:
    """Four elements share one draw: no pair of them may be dropped together more or less than by chance."""
    torch.manual_seed(1)
    dropped = (dropout(torch.ones(200_000, 4), 0.3, training=True) == 0).double()
    together = dropped.T @ dropped / len(dropped)
    expected = torch.full((4, 4), 0.09).fill_diagonal_(0.3).double()
    assert (together - expected).abs().max() < 5 * math.sqrt(0.3 * 0.7 / len(dropped))


def test_gradient_passes_through_what_was_kept() -> None:
    states = torch.randn(3, 5, requires_grad=True)
    found = dropout(states, 0.5, training=True)
    found.sum().backward()
    torch.testing.assert_close(states.grad, 2.0 * (found != 0))


def test_the_global_seed_repeats_it() -> None:
    states = torch.randn(7, 9)
    torch.manual_seed(3)
    first, second = dropout(states, 0.4, training=True), dropout(states, 0.4, training=True)
    torch.manual_seed(3)
    assert torch.equal(dropout(states, 0.4, training=True), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize(("rate", "training"), [(0.0, True), (0.5, False), (1.0, True)])
def test_where_nothing_is_drawn_it_is_that_of_torch(rate: float, training: bool) -> None:
    states = torch.randn(4, 4)
    assert torch.equal(dropout(states, rate, training), F.dropout(states, rate, training))
    layer = Dropout(rate).train(training)
    assert torch.equal(layer(states), F.dropout(states, rate, training))
