"""Our linear layer is torch's: outputs and gradients, wherever oneDNN serves and wherever it does not."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from vilbert.model import linear as linear_file
from vilbert.model.linear import Linear, linear, rounded

needs_onednn = pytest.mark.skipif(not linear_file.ONEDNN, reason="this build of PyTorch has no oneDNN")


@pytest.fixture(scope="module", autouse=True)
def _onednn_for_all_sizes() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(linear_file, "LEAST", 1)
        yield


def results(product: object, states: Tensor, layer: torch.nn.Linear) -> list[Tensor]:
    """Return the output and all gradients of one way to multiply."""
    inputs = states.clone().requires_grad_()
    layer.zero_grad()
    output = product(inputs, layer.weight, layer.bias)  # type: ignore[operator]
    (output * torch.linspace(-1, 1, output.numel()).view_as(output)).sum().backward()
    gradients = [inputs.grad, layer.weight.grad, *([] if layer.bias is None else [layer.bias.grad])]
    return [output.detach(), *(gradient.clone() for gradient in gradients if gradient is not None)]


@given(
    shape=st.lists(st.integers(1, 13), max_size=3),
    inputs=st.integers(1, 40),
    outputs=st.integers(1, 40),
    bias=st.booleans(),
    transposed=st.booleans(),
)
def test_output_and_gradients_are_those_of_torch(
    shape: list[int], inputs: int, outputs: int, bias: bool, transposed: bool
) -> None:
    torch.manual_seed(len(shape) + inputs + outputs)
    layer = Linear(inputs, outputs, bias=bias)
    states = torch.randn(*shape, inputs)
    if transposed and len(shape) > 1:
        states = states.transpose(0, 1).contiguous().transpose(0, 1)
    expected = results(F.linear, states, layer)
    assert expected[0].shape == (*shape, outputs)
    for found, wanted in zip(results(linear, states, layer), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def onednn_products(work: Callable[[], object]) -> int:
    """Return how many products oneDNN computed during the work."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        work()
    return sum(event.name == "mkldnn::_linear_pointwise" for event in profile.events())


@needs_onednn
def test_onednn_multiplies_float32_and_torch_other_types() -> None:
    layer = Linear(4, 3)
    inputs = torch.randn(2, 4, requires_grad=True)
    # one product forward, one for the gradient of the inputs
    assert onednn_products(lambda: layer(inputs).sum().backward()) == 2
    with torch.autocast("cpu", torch.bfloat16):
        assert onednn_products(lambda: layer(inputs)) == 0
        assert layer(inputs).dtype == torch.bfloat16
    assert onednn_products(lambda: layer.double()(inputs.double())) == 0


@needs_onednn
def test_onednn_multiplies_only_in_layers_of_the_least_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_file, "LEAST", 4)

    def products(inputs: int, outputs: int) -> int:
        layer, states = Linear(inputs, outputs), torch.randn(2, inputs)
        return onednn_products(lambda: layer(states))

    assert [products(4, 3), products(3, 4), products(4, 4)] == [0, 0, 1]


def test_frozen_weights_get_no_gradient_and_pass_it_on() -> None:
    layer = Linear(4, 3).requires_grad_(False)
    states = torch.randn(2, 4, requires_grad=True)
    layer(states).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is None
    torch.testing.assert_close(states.grad, layer.weight.sum(0).expand(2, 4))


def test_no_rows_give_no_rows_and_zero_gradients() -> None:
    layer = Linear(4, 3)
    output = layer(torch.empty(0, 4, requires_grad=True))
    output.sum().backward()
    assert output.shape == (0, 3)
    assert not layer.weight.grad.any()


def test_few_shapes_serve_all_numbers_of_rows() -> None:
    """Each number of rows is its own program in oneDNN, which takes 0.6 MB and keeps a thousand of them."""
    found = [rounded(rows) for rows in range(1, 4097)]
    assert all(rows <= size <= max(rows + 7, rows * 1.0625) for rows, size in enumerate(found, start=1))
    assert len(set(found)) <= 8 + 64 + 32 * 3
    assert len(set(found[:512])) <= 8 + 64, "the few rows that are masked vary most from batch to batch"
    assert [rounded(rows) for rows in (1, 7, 8, 104, 296)] == [1, 7, 8, 104, 296]
