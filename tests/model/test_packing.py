"""Leaving out what nothing reads changes nothing that is read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vilbert.model.config import ViLBertConfig
from vilbert.model.packing import computed_positions, packing_of, positions_of, wanted_positions
from vilbert.model.vilbert import ViLBertForPreTraining, ViLBertModel

from .tiny_model import TINY, batch, fill, labels, largest_difference


def test_pack_and_unpack() -> None:
    needed = torch.tensor([[True, False, True], [False, False, True]])
    packing = packing_of(needed)
    states = torch.arange(12.0).view(2, 3, 2)
    packed = packing.pack(states)
    assert torch.equal(packed, states[needed])
    assert torch.equal(packing.unpack(packed), states * needed[..., None])


def test_what_is_kept() -> None:
    wanted = torch.tensor([[False, False, False, True], [False] * 4, [False] * 4])
    mask = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]])
    assert wanted_positions(wanted).places.tolist() == [0, 3, 4, 8]
    assert computed_positions(wanted, mask).places.tolist() == [0, 1, 3, 4, 6, 8, 9, 10, 11]


@given(data=st.data(), dynamic=st.booleans(), attention=st.sampled_from(["eager", "sdpa"]), frozen=st.booleans())
def test_wanted_states_and_gradients_are_the_same(data: Any, dynamic: bool, attention: str, frozen: bool) -> None:
    rows, words, regions = (data.draw(st.integers(1, 4)) for _ in range(3))
    config = ViLBertConfig(**{**TINY, "dynamic_attention": dynamic, "fixed_t_layer": int(frozen)})
    model = fill(ViLBertModel._from_config(config, attn_implementation=attention))
    inputs = batch(rows, words, regions=regions)

    def bits(width: int) -> torch.Tensor:
        return torch.tensor(data.draw(st.lists(st.booleans(), min_size=rows * width, max_size=rows * width))).view(
            rows, width
        )

    wanted_words, wanted_regions = bits(words), bits(regions)
    masks = {"attention_mask": bits(words).long(), "image_attention_mask": bits(regions).long()}
    whole = model(**inputs, **masks)
    part = model(**inputs, **masks, wanted_words=wanted_words, wanted_regions=wanted_regions)

    def read(output: Any) -> tuple[torch.Tensor, ...]:
        return (
            output.text_output[wanted_words],
            output.image_output[wanted_regions],
            output.pooled_text,
            output.pooled_image,
        )

    assert all(torch.allclose(one, other, atol=2e-5) for one, other in zip(read(whole), read(part), strict=True))
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    whole_gradients, part_gradients = (
        torch.autograd.grad(sum(tensor.square().sum() for tensor in read(output)), parameters, allow_unused=True)
        for output in (whole, part)
    )
    for one, other in zip(whole_gradients, part_gradients, strict=True):
        if one is None or other is None:
            assert one is None or not one.any()
            assert other is None or not other.any()
        else:
            assert torch.allclose(one, other, rtol=1e-3, atol=1e-3 * max(1.0, one.abs().max().item()))


@pytest.mark.parametrize("task_tokens", [False, True])
def test_losses_are_those_of_all_scores(task_tokens: bool) -> None:
    config = ViLBertConfig(**{**TINY, "task_specific_tokens": task_tokens})
    model = fill(ViLBertForPreTraining(config))
    inputs = batch(3, 6, regions=5)
    inputs["attention_mask"] = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6, [1, 1, 0, 0, 0, 0]])
    inputs["image_attention_mask"] = torch.tensor([[1] * 5, [1, 1, 1, 0, 0], [1, 1, 0, 0, 0]])
    if task_tokens:
        inputs["task_ids"] = torch.tensor([[1], [2], [3]])
    answers = labels(3, 6, 5)
    lean = model(**inputs, **answers)
    full = model(**inputs, **answers, output_hidden_states=True)  # which computes every position
    for name in ("masked_lm", "masked_image", "alignment"):
        assert lean[name].count == full[name].count
        assert lean[name].sum.item() == pytest.approx(full[name].sum.item(), rel=1e-5)
    assert largest_difference(lean.alignment_scores, full.alignment_scores) < 1e-5


def test_partial_states_do_not_go_with_pairs_or_hidden_states() -> None:
    model, inputs = fill(ViLBertModel(ViLBertConfig(**TINY))), batch(2, 5)
    wanted = torch.zeros(2, 5, dtype=torch.bool)
    for others in ({"pairing": "all"}, {"output_hidden_states": True}, {"output_attentions": True}):
        with pytest.raises(ValueError, match="wanted_words"):
            model(**inputs, wanted_words=wanted, **others)


def test_positions_and_labels_of_another_shape_are_refused() -> None:
    model, inputs, answers = fill(ViLBertForPreTraining(ViLBertConfig(**TINY))), batch(3, 6, regions=5), labels(3, 6, 5)
    with pytest.raises(ValueError, match=r"wanted_words \(3, 7\): expected \(3, 6\)"):
        model.bert(**inputs, wanted_words=torch.ones(3, 7, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"image_label \(3, 5\): expected \(3, 4\)"):
        model(**inputs, **{**answers, "image_label": torch.ones(3, 5, dtype=torch.long)})
    with pytest.raises(ValueError, match="masked_lm_labels"):
        model(**inputs, **{**answers, "masked_lm_labels": torch.ones(3, 7, dtype=torch.long)})
    with pytest.raises(ValueError, match="image_target"):
        model(**inputs, **{**answers, "image_target": torch.ones(3, 4, 9)})
    with pytest.raises(ValueError, match="pairing 'rows'"):
        model(**inputs, **answers, pairing="all")


def test_no_label_at_all_gives_zero_and_gradients() -> None:
    model, inputs = fill(ViLBertForPreTraining(ViLBertConfig(**TINY))), batch(2, 5)
    answers = {name: torch.full_like(value, -1) for name, value in labels(2, 5, 4).items() if name != "image_target"}
    output = model(**inputs, **answers, image_target=torch.ones(2, 3, TINY["v_target_size"]))
    assert output.loss.item() == 0
    output.loss.backward()
    assert not model.cls.predictions.bias.grad.any()


def test_autocast_leaves_the_same_out() -> None:
    model, inputs, answers = fill(ViLBertForPreTraining(ViLBertConfig(**TINY))), batch(3, 6), labels(3, 6, 4)
    inputs["attention_mask"] = torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6, [1, 1, 0, 0, 0, 0]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        lean = model(**inputs, **answers).loss
        full = model(**inputs, **answers, output_hidden_states=True).loss
    assert lean.item() == pytest.approx(full.item(), rel=2e-2)
    lean.backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)


@pytest.mark.parametrize("masked", [True, False])
def test_positions_found_before_give_the_losses_that_the_model_finds(masked: bool) -> None:
    inputs = batch(3, 6, regions=5)
    attention, regions = torch.ones(3, 6, dtype=torch.long), torch.ones(3, 4, dtype=torch.long)
    if masked:
        attention[0, 4:] = 0
        attention[1] = 0
        regions[2, 2:] = 0
    given_labels = labels(3, 6, 5)
    positions = positions_of(attention, given_labels["masked_lm_labels"], regions, given_labels["image_label"])
    arguments = {
        **inputs, **given_labels,
        "attention_mask": attention, "image_attention_mask": torch.nn.functional.pad(regions, (1, 0), value=1),
    }  # fmt: skip
    model = fill(ViLBertForPreTraining(ViLBertConfig(**TINY))).eval()
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = []
    for more in ({}, {"positions": positions}):
        output = model(**arguments, **more)
        found.append((output.loss, *torch.autograd.grad(output.loss, parameters, allow_unused=True)))
    for one, other in zip(*found, strict=True):
        assert (one is None and other is None) or torch.equal(one, other)


def test_positions_go_with_labels() -> None:
    model = ViLBertForPreTraining(ViLBertConfig(**TINY))
    ones = torch.ones(2, 3, dtype=torch.long)
    with pytest.raises(ValueError, match="positions require"):
        model(**batch(2, 3, regions=4), positions=positions_of(ones, ones, ones, ones))
