"""Regions of some images, laid out side by side.

Features are by far the most of a batch. They are copied once, from the shard into the batch, and stay as they are
stored, float16 or codes; in a worker process they lie in memory that the training process sees too, so that they are
not copied again.

Shapes: B images, R regions of the one with most (at least 1), D features, K most probable classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.train.data.feature_rows import FeatureRows, lay_out_features
from vilbert.pipeline.train.examples.buckets import rounded_up
from vilbert.pipeline.train.examples.item_settings import ItemSettings
from vilbert.pipeline.train.examples.masking import RegionDraws, RegionMasks, mask_regions

if TYPE_CHECKING:
    from vilbert.pipeline.train.data.corpus import Corpus
    from vilbert.pipeline.train.data.example import Example


class ImageRows(NamedTuple):
    """Regions and what happens to them; padding is 0."""

    features: FeatureRows
    """[B, R, D], unmasked."""
    masks: RegionMasks
    """What is to be predicted and what is seen."""
    locations: NDArray[np.float32]
    """[B, R, 5], see `locations`."""
    region_mask: NDArray[np.int64]
    """[B, R], 1 where a region is; an image without any has one of zeros."""
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
    width = min(rounded_up(int(counts.max()), step), items.max_regions)
    present = np.arange(width) < counts[:, None]
    kept = [(e, count) for e, count in zip(examples, counts.tolist(), strict=True) if e and count]
    features = lay_out_features(
        [e.feature_parts if e else () for e in examples],
        counts.tolist(),
        channels=corpus.feature_dim,
        most=items.max_regions,
        width=width,
    )
    boxes = _spread(present, [e.boxes[:n] for e, n in kept], np.float32, 4)
    sizes = np.array([(e.width, e.height) if e else (1, 1) for e in examples], dtype=np.float64)
    masks = mask_regions(
        boxes,
        present,
        RegionDraws(*(part[:, :width] for part in draws)),
        share=items.region_mask,
        overlap=items.overlap_masking,
        slots=items.max_regions,
    )
    region_mask = present.astype(np.int64)
    region_mask[counts == 0, 0] = 1  # an image of no region is one of zeros: attention needs something to look at
    return ImageRows(
        features,
        masks,
        locations(boxes, sizes),
        region_mask,
        _spread(present, [e.class_ids[:n] for e, n in kept], np.int32, corpus.top_classes),
        _spread(present, [e.class_probs[:n] for e, n in kept], np.float16, corpus.target_classes),
    )


def locations(boxes_xyxy: NDArray[np.float32], sizes: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return x1, y1, x2, y2 and area as shares of the image, float32 [B, R, 5].

    boxes_xyxy: float32 [B, R, 4] in pixels. sizes: [B, 2] width and height of the images. The area is that of the
    pixel box, without the pixel that overlaps count. Source: `BertPreprocessBatch` of jiasenlu/vilbert_beta.
    """
    located = np.empty((*boxes_xyxy.shape[:2], 5), dtype=np.float32)
    located[..., :4] = boxes_xyxy / np.tile(sizes, 2)[:, None].astype(np.float32)
    sides = boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]
    located[..., 4] = sides[..., 1] * sides[..., 0] / sizes.prod(axis=1)[:, None].astype(np.float32)
    return located


def _spread(present: NDArray[np.bool_], parts: Sequence[NDArray[Any]], dtype: type, last: int) -> NDArray[Any]:
    """Return zeros [B, R, last] with the rows of `parts` where regions are."""
    spread = np.zeros((*present.shape, last), dtype=dtype)
    if parts:
        spread[present] = np.concatenate(parts)
    return spread
