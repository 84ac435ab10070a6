"""Masks: both attention paths alike, and nothing of what is hidden gets through."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from vilbert.model.attention import MASKED_SCORE, attend, scores_mask, seen_by_all
from vilbert.model.config import ViLBertConfig
from vilbert.model.vilbert import ViLBertForPreTraining, ViLBertModel

from .tiny_model import TINY, batch, fill, labels, largest_difference

FIELDS = ("text_output", "image_output", "pooled_text", "pooled_image")
CONFIG = ViLBertConfig(**TINY)
SDPA = fill(ViLBertModel._from_config(CONFIG, attn_implementation="sdpa"))
EAGER = fill(ViLBertModel._from_config(CONFIG, attn_implementation="eager"))
DOUBLE = fill(ViLBertModel._from_config(CONFIG)).double()


def drawn_mask(data: st.DataObject, rows: int, length: int) -> Tensor | None:
    """Draw None, or a mask [B, L] or [B, L, L] of any content, rows of nothing but zeros included."""
    kind = data.draw(st.sampled_from(("none", "columns", "rows")))
    if kind == "none":
        return None
    shape = (rows, length) if kind == "columns" else (rows, length, length)
    count = torch.Size(shape).numel()
    return torch.tensor(data.draw(st.lists(st.integers(0, 1), min_size=count, max_size=count))).view(shape)


def assert_same(first: Any, second: Any, words: int, regions: int, tolerance: float = 1e-5) -> None:
    """Compare two outputs at the first positions of each."""
    assert largest_difference(first.text_output[:, :words], second.text_output[:, :words]) < tolerance
    assert largest_difference(first.image_output[:, :regions], second.image_output[:, :regions]) < tolerance
    assert largest_difference(first.pooled_text, second.pooled_text) < tolerance
    assert largest_difference(first.pooled_image, second.pooled_image) < tolerance


def as_double(inputs: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in inputs.items()
    }


@given(st.data())
def test_the_eager_path_equals_the_fused_one(data: st.DataObject) -> None:
    rows, words, regions = (data.draw(st.integers(1, most)) for most in (3, 7, 6))
    inputs = batch(texts=rows, words=words, regions=regions, seed=data.draw(st.integers(0, 99)))
    masks = {
        "attention_mask": drawn_mask(data, rows, words),
        "image_attention_mask": drawn_mask(data, rows, regions),
    }
    with torch.no_grad():
        fused, eager = SDPA(**inputs, **masks), EAGER(**inputs, **masks)
    assert_same(fused, eager, words, regions)
    assert all(torch.isfinite(fused[name]).all() for name in FIELDS)


@settings(max_examples=20)
@given(words=st.integers(1, 5), regions=st.integers(1, 4), more=st.integers(1, 4), seed=st.integers(0, 99))
def test_more_padding_changes_nothing_nor_does_its_content(words: int, regions: int, more: int, seed: int) -> None:
    short = batch(words=words, regions=regions, seed=seed)
    other = batch(words=more, regions=more, seed=seed + 1)
    longer = {name: torch.cat([value, other[name]], dim=1) for name, value in short.items()}
    refilled = {name: torch.cat([value, (other[name] + 1) % 31], dim=1) for name, value in short.items()}
    masks = {
        "attention_mask": torch.tensor([[1] * words + [0] * more] * 2),
        "image_attention_mask": torch.tensor([[1] * regions + [0] * more] * 2),
    }
    with torch.no_grad():
        unpadded = SDPA(**short)
        assert_same(unpadded, SDPA(**longer, **masks), words, regions)
        assert_same(unpadded, EAGER(**refilled, **masks), words, regions)


def test_losses_do_not_feel_padding() -> None:
    model = fill(ViLBertForPreTraining(ViLBertConfig(**TINY)))
    short, short_labels = batch(), labels(2, 5, 4)
    longer = {name: torch.cat([value, value[:, :2]], dim=1) for name, value in short.items()}
    masks = {
        "attention_mask": torch.tensor([[1] * 5 + [0] * 2] * 2),
        "image_attention_mask": torch.tensor([[1] * 4 + [0] * 2] * 2),
    }
    ignored = torch.full((2, 2), -1)
    longer_labels = {
        "masked_lm_labels": torch.cat([short_labels["masked_lm_labels"], ignored], dim=1),
        "image_label": torch.cat([short_labels["image_label"], ignored], dim=1),
        "image_target": torch.cat([short_labels["image_target"], torch.zeros(2, 2, 4)], dim=1),
        "next_sentence_label": short_labels["next_sentence_label"],
    }
    first, second = model(**short, **short_labels), model(**longer, **masks, **longer_labels)
    assert first.loss.item() == pytest.approx(second.loss.item(), rel=1e-5)
    assert first.masked_image.count.item() == second.masked_image.count.item()


@pytest.mark.parametrize("eager", [True, False])
def test_a_row_that_sees_nothing_attends_as_if_it_saw_all(eager: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    query, key, value = (torch.randn(2, 3, 4, 6, generator=generator) for _ in range(3))
    mask = torch.tensor([[0, 0, 0, 0], [1, 1, 0, 1]])
    context, _ = attend(query, key, value, scores_mask(mask, query.dtype), dropout=0.0, eager=eager)
    scores = query @ key.transpose(-1, -2) / 6**0.5
    # Adding -10000 rounds float32 scores to about 0.001, in the reference as here.
    literal = torch.softmax(scores[:1] + MASKED_SCORE, dim=-1) @ value[:1]
    assert largest_difference(context[:1], literal.transpose(1, 2).flatten(2)) < 1e-5
    exact, _ = attend(
        *(tensor.double() for tensor in (query, key, value)),
        scores_mask(mask, torch.float64),
        dropout=0.0,
        eager=eager,
    )
    unmasked = torch.softmax(scores[:1].double(), dim=-1) @ value[:1].double()
    assert largest_difference(exact[:1], unmasked.transpose(1, 2).flatten(2)) < 1e-6
    hidden = torch.softmax(scores[1:, ..., [0, 1, 3]], dim=-1) @ value[1:, :, [0, 1, 3]]
    assert largest_difference(context[1:], hidden.transpose(1, 2).flatten(2)) < 1e-5


def test_a_pair_of_nothing_but_padding_is_finite_and_has_the_unmasked_numbers() -> None:
    inputs = as_double(batch())
    masks = {"attention_mask": torch.zeros(2, 5), "image_attention_mask": torch.zeros(2, 4)}
    with torch.no_grad():
        assert_same(DOUBLE(**inputs, **masks), DOUBLE(**inputs), 5, 4, tolerance=1e-8)
        single = SDPA(**batch(), **masks)
    assert all(torch.isfinite(single[name]).all() for name in FIELDS)


@settings(max_examples=15)
@given(
    words=st.lists(st.integers(0, 1), min_size=5, max_size=5).filter(any),
    regions=st.lists(st.integers(0, 1), min_size=4, max_size=4).filter(any),
)
def test_a_mask_of_equal_rows_is_the_mask_of_columns(words: list[int], regions: list[int]) -> None:
    columns, by_region, inputs = torch.tensor([words] * 2), torch.tensor([regions] * 2), batch()
    with torch.no_grad():
        first = SDPA(**inputs, attention_mask=columns, image_attention_mask=by_region)
        second = SDPA(
            **inputs,
            attention_mask=columns[:, None].expand(-1, 5, -1),
            image_attention_mask=by_region[:, None].expand(-1, 4, -1),
        )
    assert_same(first, second, 5, 4)


@pytest.mark.parametrize("changed", range(5))
@pytest.mark.parametrize("model", [SDPA, EAGER], ids=["sdpa", "eager"])
def test_with_a_causal_mask_no_word_reaches_what_comes_before_it(model: Any, changed: int) -> None:
    inputs = batch()
    causal = torch.ones(5, 5).tril().expand(2, -1, -1)
    ids = inputs["input_ids"].clone()
    ids[:, changed] = ids[:, changed] % 30 + 1
    with torch.no_grad():
        first = model(**inputs, attention_mask=causal)
        second = model(**{**inputs, "input_ids": ids}, attention_mask=causal)
    if changed > 0:
        assert largest_difference(first.text_output[:, :changed], second.text_output[:, :changed]) < 1e-6
    assert largest_difference(first.text_output[:, changed:], second.text_output[:, changed:]) > 1e-3
    reached = largest_difference(first.image_output, second.image_output)
    assert reached < 1e-6 if changed > 0 else reached > 1e-3  # regions see the first word, which all words see


def test_the_other_stream_sees_what_every_position_sees() -> None:
    causal = torch.ones(3, 3, dtype=torch.long).tril()[None]
    padded = torch.tensor([[[1, 0, 1], [1, 1, 1], [0, 0, 0]]])  # a row of zeros is padding
    columns = torch.tensor([[1, 0, 1]])
    for mask, expected in ((causal, [[1, 0, 0]]), (padded, [[1, 0, 1]]), (columns, [[1, 0, 1]])):
        seen = seen_by_all(mask)
        assert seen is not None
        assert seen.tolist() == expected
    assert seen_by_all(None) is None


def test_float64_and_bfloat16_give_the_same_numbers_within_their_rounding() -> None:
    inputs = batch(texts=3, words=6, regions=5)
    masks = {"attention_mask": torch.tensor([[1] * 6, [1] * 4 + [0] * 2, [1] * 6])}
    with torch.no_grad():
        single, double = SDPA(**inputs, **masks), DOUBLE(**as_double(inputs), **masks)
        with torch.autocast("cpu", torch.bfloat16):
            half = SDPA(**inputs, **masks)
    assert double.text_output.dtype == torch.float64
    for name in FIELDS:
        scale = double[name].abs().max().item()
        assert largest_difference(single[name], double[name]) < 1e-5
        assert 1e-6 < largest_difference(half[name], double[name]) < 0.1 * scale
