"""Working weights in bfloat16 give the numbers of autocast, bit for bit, and leave the parameters float32."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from vilbert.model.operators import Linear
from vilbert.pipeline.train.engine.working_weights import WorkingWeights, working_weights


class Net(nn.Module):
    """Two layers and a norm; the second layer is frozen, the third shares its weight with another module."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.frozen = Linear(8, 8).requires_grad_(False)
        self.tied = Linear(8, 5, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        return self.tied(self.frozen(torch.relu(self.norm(self.first(states)))))


def trained(parts: int, *, working: bool) -> tuple[list[Tensor], dict[str, Tensor]]:
    """Return the outputs of parts of a batch, twice, and the parameters after a step of SGD between."""
    torch.manual_seed(0)
    net = Net()
    batch = torch.randn(4, 6)
    weights = WorkingWeights(net, frozenset({"tied.weight"})) if working else None
    outputs: list[Tensor] = []
    for _ in range(2):
        if weights is not None:
            weights.refresh()
        for part in batch.chunk(parts):
            with torch.autocast("cpu", torch.bfloat16):
                outputs.append(net(part))
            outputs[-1].float().square().sum().backward()
            if weights is not None:
                weights.collect()
        with torch.no_grad():
            for parameter in net.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
                    parameter.grad = None
    return [output.detach() for output in outputs], dict(net.named_parameters())


def test_a_step_is_that_of_autocast() -> None:
    for parts in (1, 2):
        outputs, parameters = trained(parts, working=True)
        expected, expected_parameters = trained(parts, working=False)
        assert all(torch.equal(one, other) for one, other in zip(outputs, expected, strict=True))
        assert not torch.equal(outputs[0], outputs[-1])
        assert parameters.keys() == expected_parameters.keys()
        for name, value in parameters.items():
            assert value.dtype == torch.float32
            assert torch.equal(value, expected_parameters[name]), name


def test_evaluation_reads_the_parameters_as_they_are_now() -> None:
    net = Net()
    WorkingWeights(net, frozenset())
    with torch.no_grad():
        net.first.weight.add_(1)
    states = torch.randn(2, 6)
    net.eval()
    expected = nn.functional.linear(states, net.first.weight, net.first.bias)
    torch.testing.assert_close(net.first(states), expected)


def test_where_there_are_none() -> None:
    on: Any = {"device": torch.device("cuda"), "bfloat16": True, "bare": True}
    for change in ({"device": torch.device("cpu")}, {"bfloat16": False}, {"bare": False}):
        assert working_weights(Net(), **{**on, **change}) is None
    assert working_weights(Net(), **on) is not None
