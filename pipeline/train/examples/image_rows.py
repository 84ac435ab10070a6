"""Lay out the regions of a batch of images.

Features are by far the most of a batch. They are copied once, from the shard into the batch, and stay as they are
stored, float16 or codes; in a worker process they lie in memory that the training process sees too, so that they are
not copied again.

Shapes: B images, R regions of the one with most (at least 1), D features, K most probable classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.train.data.feature_rows import FeatureRows
from vilbert.pipeline.train.examples.buckets import rounded_up
from vilbert.pipeline.train.examples.item_settings import ItemSettings
from vilbert.pipeline.train.examples.masking import RegionDraws, RegionMasks, mask_regions
from vilbert.pipeline.train.examples.region_layout import lay_out_regions, spread

if TYPE_CHECKING:
    from vilbert.pipeline.train.data.corpus import Corpus
    from vilbert.pipeline.train.data.example import Example


class ImageRows(NamedTuple):
    """Regions and their masks; padding is 0."""

    features: FeatureRows
    """[B, R, D], unmasked."""
    masks: RegionMasks
    """Which regions are predicted, and which are visible."""
    locations: NDArray[np.float32]
    """[B, R, 5], see `locations`."""
    region_mask: NDArray[np.int64]
    """[B, R], 1 for regions, 0 for padding; an image without regions has one of zeros."""
    class_ids: NDArray[np.int32]
    """[B, R, K]; K is 0 where the class targets are those of a column."""
    class_probs: NDArray[np.float16]
    """[B, R, K], or [B, R, C] of all classes by class id, where they are those of a column."""


def lay_out(
    corpus: Corpus,
    examples: Sequence[Example | None],
    draws: RegionDraws,
    items: ItemSettings,
    *,
    step: int = 1,
) -> ImageRows:
    """Lay the regions of some images out; None is an image without any.

    draws: random numbers of at least R regions an image. What is over `items.max_regions` is left out. step: R is a
    multiple of it, or `items.max_regions`.
    """
    counts = np.array([min(len(e.boxes), items.max_regions) if e else 0 for e in examples], dtype=np.int64)
    layout = lay_out_regions(
        examples,
        [e.feature_parts if e else () for e in examples],
        counts,
        channels=corpus.feature_dim,
        max_regions=items.max_regions,
        width=min(rounded_up(int(counts.max()), step), items.max_regions),
    )
    present = layout.present
    masks = mask_regions(
        layout.boxes_xyxy,
        present,
        RegionDraws(*(part[:, : present.shape[1]] for part in draws)),
        share=items.region_mask,
        overlap=items.overlap_masking,
        slots=items.max_regions,
    )
    kept = [(e, count) for e, count in zip(examples, counts.tolist(), strict=True) if e and count]
    return ImageRows(
        layout.features,
        masks,
        layout.locations,
        layout.mask,
        spread(present, [e.class_ids[:n] for e, n in kept], np.int32, corpus.top_classes),
        spread(present, [e.class_probs[:n] for e, n in kept], np.float16, corpus.target_classes),
    )
