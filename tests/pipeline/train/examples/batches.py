"""Small batches of pre-training, drawn at random, with padding in both streams."""

from __future__ import annotations

import torch

from vilbert.model.packing import positions_of
from vilbert.pipeline.train.examples.batch import Batch
from vilbert.pipeline.train.examples.buckets import filled_up

FEATURES, CLASSES, VOCABULARY, TOP = 16, 9, 50, 3


def made_batch(*, rows: int, words: int, regions: int, seed: int = 0, in_buckets: bool = True) -> Batch:
    """Return a batch of so many rows, words and regions; lists of positions are filled up where in_buckets."""
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, words, (rows, 1), generator=draw)
    attention = (torch.arange(words) < lengths).long()
    ids = torch.randint(5, VOCABULARY, (rows, words), generator=draw)
    masked = (torch.rand(rows, words, generator=draw) < 0.2) & (attention > 0)
    labels = torch.where(masked, ids, -1)
    region_mask = (torch.arange(regions) < torch.randint(1, regions, (rows, 1), generator=draw)).long()
    predicted = torch.where((torch.rand(rows, regions, generator=draw) < 0.3) & (region_mask > 0), 1, -1)
    positions = positions_of(attention, labels, region_mask, predicted)
    if in_buckets:
        positions = filled_up(positions, rows=rows, words=words, regions=regions + 1)
    return Batch(
        input_ids=ids,
        attention_mask=attention,
        masked_lm_labels=labels,
        features=torch.rand(rows, regions, FEATURES, generator=draw).half(),
        zeroed=predicted > 0,
        divisor=region_mask.sum(1).float(),
        locations=torch.rand(rows, regions, 5, generator=draw),
        region_mask=region_mask,
        image_label=predicted,
        class_ids=torch.randint(0, CLASSES, (rows, regions, TOP), generator=draw).int(),
        class_probs=torch.full((rows, regions, TOP), 0.3).half(),
        next_sentence_label=torch.arange(rows) % 2,
        image_ids=("",) * rows,
        unread=0,
        positions=vars(positions),
    )
