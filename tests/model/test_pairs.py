"""Pairing inside the model against the same rows written out by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from vilbert.model.config import ViLBertConfig
from vilbert.model.pairs import Streams, all_pairs, one_text_many_images, pair
from vilbert.model.tasks import ViLBertForTasks
from vilbert.model.vilbert import ViLBertModel

from .tiny_model import TINY, batch, fill, largest_difference

FIELDS = ("text_output", "image_output", "pooled_text", "pooled_image")


@pytest.fixture(scope="module")
def model() -> Any:
    return fill(ViLBertModel(ViLBertConfig(**TINY)))


def masks(texts: int, images: int, kind: str) -> dict[str, Tensor | None]:
    """Masks of 5 words and 4 regions that differ from row to row; "rows" hides the later words from each."""
    if kind == "none":
        return {"attention_mask": None, "image_attention_mask": None}
    words = (torch.arange(5)[None] < 5 - torch.arange(texts)[:, None] % 3).long()
    regions = (torch.arange(4)[None] < 4 - torch.arange(images)[:, None] % 2).long()
    if kind == "rows":
        words = words[:, None] * torch.ones(5, 5, dtype=torch.long).tril()
        regions = regions[:, None].expand(-1, 4, -1)
    return {"attention_mask": words, "image_attention_mask": regions}


def chosen(inputs: dict[str, Any], texts: Tensor, images: Tensor) -> dict[str, Any]:
    """Write out the rows: which text and which image each has."""
    return {
        name: None if value is None else value[images if name.startswith("image") else texts]
        for name, value in inputs.items()
    }


@pytest.mark.parametrize("kind", ["none", "columns", "rows"])
def test_one_text_equals_the_text_repeated(model: Any, kind: str) -> None:
    inputs = batch(texts=1, images=3) | masks(1, 3, kind)
    paired = model(**inputs, pairing="one_text")
    by_hand = model(**chosen(inputs, torch.zeros(3, dtype=torch.long), torch.arange(3)))
    for name in FIELDS:
        assert largest_difference(paired[name], by_hand[name]) < 1e-5


@pytest.mark.parametrize("kind", ["none", "columns", "rows"])
def test_all_pairs_equal_a_loop_and_row_is_text_times_images_plus_image(model: Any, kind: str) -> None:
    texts, images = 2, 3
    inputs = batch(texts=texts, images=images) | masks(texts, images, kind)
    paired = model(**inputs, pairing="all")
    assert len(paired.text_output) == texts * images
    for text in range(texts):
        for image in range(images):
            alone = model(**chosen(inputs, torch.tensor([text]), torch.tensor([image])))
            for name in FIELDS:
                row = paired[name][text * images + image][None]
                assert largest_difference(row, alone[name]) < 1e-5, (text, image, name)


def test_rows_of_a_square_batch_lie_on_the_diagonal(model: Any) -> None:
    inputs = batch(texts=3) | masks(3, 3, "columns")
    rows, pairs = model(**inputs), model(**inputs, pairing="all")
    assert largest_difference(pairs.pooled_text[[0, 4, 8]], rows.pooled_text) < 1e-5


@pytest.mark.parametrize("pairing", ["one_text", "all"])
def test_region_logits_carry_each_images_own_mask(pairing: str) -> None:
    texts, images = (1, 3) if pairing == "one_text" else (2, 3)
    tasks = fill(ViLBertForTasks(ViLBertConfig(**TINY)))
    inputs = batch(texts=texts, images=images) | masks(texts, images, "columns")
    logits = tasks(**inputs, pairing=pairing, heads=["vision_logit"]).vision_logit
    hidden = inputs["image_attention_mask"].repeat(texts, 1) == 0
    assert hidden.any()
    assert torch.equal(logits[..., 0] < -9000, hidden)


def test_the_last_states_and_states_before_pairing(model: Any) -> None:
    inputs = batch(texts=2, images=3)
    states = model(**inputs, pairing="all", output_hidden_states=True)
    # One text layer runs before the first connection: embeddings and it are of 2 texts, what follows of 6 pairs.
    assert [len(state) for state in states.text_hidden_states] == [2, 2, 6, 6, 6, 6]
    assert [len(state) for state in states.image_hidden_states] == [3, 6, 6, 6, 6, 6]


def streams(texts: int, images: int) -> Streams:
    return Streams(
        text=torch.arange(texts * 2.0).view(texts, 2, 1),
        image=-torch.arange(images * 2.0).view(images, 2, 1),
        text_mask=torch.arange(texts * 2).view(texts, 2) % 2,
        image_mask=None,
    )


def test_all_pairs_literally() -> None:
    paired = all_pairs(streams(2, 3))
    assert paired.text[:, 0, 0].tolist() == [0, 0, 0, 2, 2, 2]
    assert paired.image[:, 0, 0].tolist() == [0, -2, -4, 0, -2, -4]
    assert paired.text_mask is not None
    assert paired.text_mask.tolist() == [[0, 1]] * 6
    assert paired.image_mask is None


def test_what_cannot_be_paired_is_refused(model: Any) -> None:
    with pytest.raises(ValueError, match="takes one text for 3 images, not 2"):
        one_text_many_images(streams(2, 3))
    with pytest.raises(ValueError, match=r"2 texts and 3 images.*one_text.*all"):
        pair(streams(2, 3), "rows")
    with pytest.raises(ValueError, match="2 texts and 3 images"):
        model(**batch(texts=2, images=3))
    with pytest.raises(ValueError, match=r"pairing 'al': expected 'rows', 'one_text' or 'all'"):
        pair(streams(2, 2), "al")  # type: ignore[arg-type]
