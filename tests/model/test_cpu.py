"""The operators of `model/cpu.py` equal PyTorch's, and are used on the CPU and with the switch on only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from vilbert.model import cpu
from vilbert.model.config import ViLBertConfig
from vilbert.model.cpu import VECTOR, rounded, softmax
from vilbert.model.operators import Dropout, Linear, dropout, linear
from vilbert.model.vilbert import ViLBertForPreTraining

from .tiny_model import TINY, batch, fill, labels

needs_onednn = pytest.mark.skipif(not cpu.ONEDNN, reason="this build of PyTorch has no oneDNN")


@pytest.fixture(scope="module", autouse=True)
def _onednn_for_all_widths() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cpu, "MIN_WIDTH", 1)
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
def test_onednn_multiplies_only_in_wide_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "MIN_WIDTH", 4)

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


@pytest.mark.parametrize("length", [1, 7, VECTOR - 1, VECTOR, VECTOR + 1])
def test_rows_of_any_length_sum_to_one_and_have_torchs_gradients(length: int) -> None:
    scores = torch.randn(3, 2, 5, length, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(3, 2, 5, length, dtype=torch.float64)
    ours, theirs = softmax(scores), torch.softmax(scores, dim=-1)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(ours.sum(-1), torch.ones(3, 2, 5, dtype=torch.float64))
    gradients = [torch.autograd.grad(rows, scores, upstream)[0] for rows in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_a_row_that_is_masked_whole_falls_back_to_its_scores() -> None:
    scores = torch.randn(4, 9)
    torch.testing.assert_close(softmax(scores - 10000.0), torch.softmax(scores, dim=-1), atol=1e-3, rtol=0)


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


@needs_onednn
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_model_computes_the_same_losses_and_gradients_with_and_without_them(
    attention: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = {name: 0.0 for name in ViLBertConfig().to_dict() if name.endswith("dropout_prob")}
    config = ViLBertConfig(**{**TINY, **rates})
    model = fill(ViLBertForPreTraining._from_config(config, attn_implementation=attention)).train()
    found = []
    for enabled in (True, False):
        monkeypatch.setattr(cpu, "enabled", enabled)
        model.zero_grad()
        with Operators() as operators:
            loss = model(**batch(), **labels(2, 5, 4)).loss
            loss.backward()
        assert ("mkldnn._linear_pointwise" in operators.names) is enabled
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        found.append([loss.detach(), *(gradient.clone() for gradient in gradients)])
    for ours, plain in zip(*found, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)


class Operators(TorchDispatchMode):
    """The names of the operators that run inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        del types
        self.names.add(str(function.overloadpacket))
        return function(*args, **(kwargs or {}))


OWN = {"mkldnn._linear_pointwise", "aten.random_", "aten.constant_pad_nd"}


def operators_of_a_step(device: str) -> set[str]:
    """Return the names of the operators of a training step with dropout."""
    model = fill(ViLBertForPreTraining._from_config(ViLBertConfig(**TINY))).train().to(device)
    given = {name: value.to(device) for name, value in batch().items()}
    with Operators() as operators:
        output = model.bert(**given)
        (output.pooled_text.sum() + output.pooled_image.sum()).backward()
    return operators.names


@needs_onednn
def test_no_operator_of_them_runs_with_the_switch_off_or_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    assert operators_of_a_step("cpu") >= OWN
    assert not operators_of_a_step("meta") & OWN
    monkeypatch.setattr(cpu, "enabled", False)
    assert not operators_of_a_step("cpu") & OWN


def test_the_environment_is_the_switch() -> None:
    assert [cpu.switched_on(found) for found in ({}, {cpu.VARIABLE: "1"}, {cpu.VARIABLE: "0"})] == [True, True, False]
