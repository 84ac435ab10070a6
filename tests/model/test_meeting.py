"""Streams encoded apart and then together against the whole model at once."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from vilbert.model.config import ViLBertConfig
from vilbert.model.encoder import first_meeting, layer_order
from vilbert.model.meeting import image_alone, pooled_pairs, text_alone
from vilbert.model.pairs import Pairing, Streams
from vilbert.model.vilbert import ViLBertModel

from .tiny_model import TINY, batch, fill, largest_difference

LATE: dict[str, Any] = {"v_biattention_id": [1, 2], "t_biattention_id": [2, 2]}
MASKS = {
    "attention_mask": torch.tensor([[1, 1, 1, 1, 0], [1, 1, 0, 0, 0]]),
    "image_attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
}


@pytest.mark.parametrize("changes", [{}, LATE, {"task_specific_tokens": True}, {"with_coattention": False}])
@pytest.mark.parametrize("masks", [{}, MASKS])
@pytest.mark.parametrize("pairing", ["rows", "all"])
def test_apart_and_then_together_is_the_whole_model(
    changes: dict[str, Any], masks: dict[str, torch.Tensor], pairing: Pairing
) -> None:
    model = fill(ViLBertModel(ViLBertConfig(**{**TINY, **changes})))
    inputs = batch()
    tasks = torch.tensor([[3], [4]]) if "task_specific_tokens" in changes else None
    expected = model(**inputs, **masks, task_ids=tasks, pairing=pairing)
    image_mask = masks.get("image_attention_mask")
    text, text_mask = text_alone(model, inputs["input_ids"], attention_mask=masks.get("attention_mask"), task_ids=tasks)
    image = image_alone(model, inputs["image_feat"], inputs["image_loc"], image_mask)
    streams = Streams(text=text, image=image, text_mask=text_mask, image_mask=image_mask)
    pooled = pooled_pairs(model, streams, pairing=pairing)
    assert largest_difference(pooled[0], expected.pooled_text) < 1e-5
    assert largest_difference(pooled[1], expected.pooled_image) < 1e-5


def test_the_first_meeting_is_a_coattention_or_with_dynamic_attention_a_visual_layer() -> None:
    for dynamic, expected in ((False, ["text", "text", "image"]), (True, ["text", "text"])):
        config = ViLBertConfig(**{**TINY, **LATE}, dynamic_attention=dynamic)
        assert [step.kind for step in layer_order(config)[: first_meeting(config)]] == expected


def test_dynamic_attention_pairs_before_the_visual_layers() -> None:
    model = fill(ViLBertModel(ViLBertConfig(**{**TINY, **LATE}, dynamic_attention=True)))
    inputs = batch(texts=2, images=3)
    together = model(**inputs, pairing="all").pooled_image
    for text in range(2):
        alone = model(**{**inputs, "input_ids": inputs["input_ids"][[text] * 3]}).pooled_image
        assert largest_difference(together[text * 3 : text * 3 + 3], alone) < 1e-5


def test_what_does_not_fit_the_model_is_refused() -> None:
    model, inputs = fill(ViLBertModel(ViLBertConfig(**TINY))), batch()
    with pytest.raises(ValueError, match="no task tokens"):
        text_alone(model, inputs["input_ids"], task_ids=torch.zeros(2, 1, dtype=torch.long))
    with pytest.raises(ValueError, match=r"image_loc \(2, 3, 5\)"):
        image_alone(model, inputs["image_feat"], inputs["image_loc"][:, :3])
