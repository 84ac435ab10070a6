"""Encode texts and images separately up to the first layer that needs both streams, then encode pairs.

To score every text against every image, run the first part once per text and once per image, keep the states, and run
only `pooled_pairs` for each pair. The results equal those of `ViLBertModel.forward`.

Shapes: B texts, C images, T words, R regions, H and V the widths of the streams, A that of pooled vectors.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vilbert.model.encoder import Kept
from vilbert.model.inputs import check_image, check_text
from vilbert.model.packing import Packing
from vilbert.model.pairs import Pairing, Streams, pair
from vilbert.model.vilbert import ViLBertModel, with_task_token


def text_alone(
    model: ViLBertModel,
    input_ids: Tensor,
    token_type_ids: Tensor | None = None,
    attention_mask: Tensor | None = None,
    task_ids: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Encode texts [B, T] up to the first layer that needs an image. Takes the arguments of `ViLBertModel.forward`.

    Returns:
        States [B, T, H] and mask for `Streams`, including the task token if the model has one.
    """
    check_text(input_ids, task_ids, longest=model.longest_text, task_tokens=model.config.task_specific_tokens)
    mask = attention_mask if task_ids is None else with_task_token(attention_mask)
    states = model.embeddings(input_ids, token_type_ids, task_ids, None)
    return model.encoder.alone("text", states, mask, eager=_eager(model)), mask


def image_alone(
    model: ViLBertModel, image_feat: Tensor, image_loc: Tensor, image_attention_mask: Tensor | None = None
) -> Tensor:
    """Encode images [C, R, features] up to the first layer that needs a text; return states [C, R, V] for `Streams`."""
    check_image(image_feat, image_loc, features=model.config.v_feature_size)
    states = model.v_embeddings(image_feat, image_loc)
    return model.encoder.alone("image", states, image_attention_mask, eager=_eager(model))


def pooled_pairs(model: ViLBertModel, streams: Streams, *, pairing: Pairing) -> tuple[Tensor, Tensor]:
    """Return pooled_text and pooled_image, [rows, A], from the results of `text_alone` and `image_alone`.

    The last layer of each stream computes only the pooled position.
    """
    paired = pair(streams, pairing)
    kept = Kept(text=_first_positions(paired.text), image=_first_positions(paired.image))
    last = model.encoder.together(paired, eager=_eager(model), kept=kept)
    return model.t_pooler(last.text[:, None]), model.v_pooler(last.image[:, None])


def _first_positions(states_BLH: Tensor) -> Packing:
    rows, length = states_BLH.shape[:2]
    return Packing(places=torch.arange(rows, device=states_BLH.device) * length, batch=rows, length=length)


def _eager(model: ViLBertModel) -> bool:
    return model.config._attn_implementation == "eager"
