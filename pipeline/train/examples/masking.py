"""Choose the tokens and regions to predict, and what the model sees instead of them.

Pure functions of given random numbers, for a whole batch at once.

Shapes: B pairs, T tokens, R regions without the global one.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from vilbert.extractors.agreement import pixel_iou
from vilbert.model.losses import IGNORED, MASKED
from vilbert.pipeline.train.examples.item_settings import OverlapMasking

SHARE_HIDDEN, SHARE_HIDDEN_OR_REPLACED = 0.8, 0.9  # of the words to predict
SHARE_ZEROED = 0.9  # of the regions to predict
OVERLAP = 0.4


class WordDraws(NamedTuple):
    """Random numbers for the words of a batch."""

    choice: NDArray[np.float64]
    """[B, T] in [0, 1): predicted if below the fraction of tokens to predict."""
    action: NDArray[np.float64]
    """[B, T] in [0, 1): masked below 0.8, replaced below 0.9, kept above."""
    replacement: NDArray[np.int64]
    """[B, T] ids of replacement tokens."""


class RegionDraws(NamedTuple):
    """Random numbers for the regions of a batch."""

    choice: NDArray[np.float64]
    """[B, R] in [0, 1): predicted if below the fraction of regions to predict."""
    action: NDArray[np.float64]
    """[B, R] in [0, 1): features zeroed below 0.9, kept above."""


class RegionMasks(NamedTuple):
    """Labels and masks of the regions of a batch."""

    label: NDArray[np.int64]
    """[B, R] 1 for regions to predict, -1 elsewhere."""
    zeroed: NDArray[np.bool_]
    """[B, R] whether the model sees zeros instead of the features; it still sees the location."""
    divisor: NDArray[np.float32]
    """[B] divisor of the sum of the features, which gives the global region; at least 1."""


def mask_words(
    ids: NDArray[np.int64], maskable: NDArray[np.bool_], draws: WordDraws, *, mask_id: int, share: float
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the ids that the model sees and the labels: the id where a word is to be predicted, -1 elsewhere.

    ids: int64 [B, T]. maskable: [B, T], False for padding and special tokens. Returns two int64 [B, T].
    Source: BERT (Devlin et al. 2019), section 3.1; `random_word` of jiasenlu/vilbert_beta.
    """
    chosen = maskable & (draws.choice < share)
    hidden = chosen & (draws.action < SHARE_HIDDEN)
    replaced = chosen & (draws.action >= SHARE_HIDDEN) & (draws.action < SHARE_HIDDEN_OR_REPLACED)
    seen = np.where(hidden, mask_id, np.where(replaced, draws.replacement, ids))
    return seen, np.where(chosen, ids, IGNORED)


def mask_regions(
    boxes_xyxy: NDArray[np.float32],
    present: NDArray[np.bool_],
    draws: RegionDraws,
    *,
    share: float,
    overlap: OverlapMasking,
    slots: int,
) -> RegionMasks:
    """Decide which regions are to be predicted and which the model sees as zeros.

    boxes_xyxy: float32 [B, R, 4] in pixels. present: [B, R], False for padding. share: of the regions to predict.
    slots: what an image is padded to; "divisor" counts the empty ones among them, as the published code does.

    "none": the divisor is the number of regions, hidden or not. "divisor": it is the number of slots that overlap no
    region to predict. "paper": regions that overlap one lose their features too, and the divisor is the number of
    regions that kept theirs, so the global region is the mean of what is to be seen.

    Source: `random_region` of jiasenlu/vilbert_beta ("none") and facebookresearch/vilbert-multi-task ("divisor");
    12-in-1 (Lu et al. 2020), section 3.3 ("paper").
    """
    chosen = present & (draws.choice < share)
    zeroed = chosen & (draws.action < SHARE_ZEROED)
    if overlap == "none":
        count = present.sum(axis=1)
    else:
        covered = _overlapping(boxes_xyxy, chosen) & present
        if overlap == "divisor":
            count = slots - covered.sum(axis=1)
        else:
            zeroed |= covered & ~chosen
            count = (present & ~zeroed).sum(axis=1)
    label = np.where(chosen, MASKED, IGNORED)
    return RegionMasks(label.astype(np.int64), zeroed, np.maximum(count, 1).astype(np.float32))


def _overlapping(boxes_xyxy: NDArray[np.float32], chosen: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return whether each region overlaps a chosen region of its image or is one itself, [B, R]."""
    covered: NDArray[np.bool_] = np.logical_or.reduce(
        chosen[:, :, None] & (pixel_iou(boxes_xyxy, boxes_xyxy) > OVERLAP), axis=1
    )
    return covered
