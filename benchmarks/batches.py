"""Pre-training batches with captions of realistic length and random token ids, regions and labels."""

from __future__ import annotations

import random

import torch
from torch import Tensor

from vilbert.model.config import ViLBertConfig

Batch = dict[str, Tensor]
# Word pieces of a caption, [CLS] and [SEP] apart: a gamma distribution, skewed to the right as captions are. Conceptual
# Captions' have 10.3 words in the mean, deviation 4.5 (Sharma et al., ACL 2018, table 2).
MEAN_PIECES, DEVIATION = 11.0, 4.5


def caption_lengths(rows: int, words: int) -> list[int]:
    """Return lengths in word pieces, [CLS] and [SEP] included: the quantiles of their distribution, 13 in the mean.

    Batches of 8 drawn at random differ by a fifth from one another, which would take hundreds of rounds to even out.
    """
    draw, scale = random.Random(0), DEVIATION**2 / MEAN_PIECES
    pieces = sorted(draw.gammavariate(MEAN_PIECES / scale, scale) for _ in range(100_000))
    middles = (pieces[len(pieces) * (2 * row + 1) // (2 * rows)] for row in range(rows))
    return [min(max(round(number), 3), words - 2) + 2 for number in middles]


def make_batch(config: ViLBertConfig, *, rows: int, words: int, regions: int, seed: int) -> Batch:
    """Draw a batch of `rows` captions padded to `words`, each with an image of `regions`, the global one included.

    15 % of the word pieces ([CLS] and [SEP] apart, at least one a caption) and of the regions are labelled, the regions
    with rows that sum to one. The names are those of the arguments of ours and of the reference.
    """
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.tensor(caption_lengths(rows, words))[:, None]
    place = torch.arange(words)[None]
    labelled = (torch.rand(rows, words, generator=draw) < 0.15) & (place > 0) & (place < lengths - 1)
    labelled[:, 1] = labelled[:, 1] | ~labelled.any(1)
    ids = torch.randint(1000, config.vocab_size, (rows, words), generator=draw)
    masked_regions = torch.rand(rows, regions - 1, generator=draw) < 0.15
    corners = torch.rand(rows, regions, 2, 2, generator=draw).sort(2).values
    area = (corners[:, :, 1] - corners[:, :, 0]).prod(-1, keepdim=True)
    return {
        "input_ids": torch.where(labelled, 103, ids) * (place < lengths),
        "token_type_ids": torch.zeros(rows, words, dtype=torch.long),
        "attention_mask": (place < lengths).long(),
        "masked_lm_labels": torch.where(labelled, ids, -1),
        "image_feat": torch.rand(rows, regions, config.v_feature_size, generator=draw),
        "image_loc": torch.cat([corners.flatten(2), area], -1),
        "image_attention_mask": torch.ones(rows, regions, dtype=torch.long),
        "image_label": torch.where(masked_regions, 1, -1),
        "image_target": torch.randn(rows, regions - 1, config.v_target_size, generator=draw).softmax(-1),
        "next_sentence_label": torch.randint(0, 2, (rows,), generator=draw),
    }


def crop(batch: Batch) -> Batch:
    """Cut the padding that no caption of the batch needs."""
    longest = int(batch["attention_mask"].sum(1).max())
    text = ("input_ids", "token_type_ids", "attention_mask", "masked_lm_labels")
    return {name: tensor[:, :longest].contiguous() if name in text else tensor for name, tensor in batch.items()}
