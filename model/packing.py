"""Compute only the positions that are needed, and skip padding everywhere except in attention.

A batch of captions is mostly padding, because the longest caption sets its width, and pre-training uses the last states
of masked positions only. So states are stored as one row per needed position, [W, H], and scattered to [B, L, H] for
attention. Needed positions do not depend on the others, so the results are the same.

Shapes: B batch, L positions of a stream, W needed positions of the batch, H width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Packing:
    """The positions of a stream that are kept."""

    places: Tensor
    """[W] int64, indices into the flattened [B x L]. An unused position may occur several times; after `unpack` it
    holds one of its rows."""
    batch: int
    """B."""
    length: int
    """L."""

    @property
    def whole(self) -> bool:
        """Whether every position is kept."""
        return len(self.places) == self.batch * self.length

    def pack(self, states_BLH: Tensor) -> Tensor:
        """Return the kept positions, [W, H]."""
        return states_BLH.flatten(0, 1).index_select(0, self.places)

    def unpack(self, states_WH: Tensor) -> Tensor:
        """Return [B, L, H] with zeros at the positions that were not kept."""
        spread = states_WH.new_zeros(self.batch * self.length, states_WH.shape[-1])
        return spread.index_copy(0, self.places, states_WH).unflatten(0, (self.batch, self.length))


@dataclass(frozen=True, kw_only=True)
class Positions:
    """The positions of both streams that a pre-training batch computes and uses, found on the CPU by `positions_of`.

    Finding them on a GPU would synchronise it. All are int64 indices into flattened [B x L]. Each list may be padded
    with positions without effect, such as words without a label, to limit the number of different lengths.
    """

    words: Tensor
    """[W] of words that are computed."""
    regions: Tensor
    """[W] of regions that are computed, the global one of each image included."""
    last_words: Tensor
    """[W] of words whose last states are used: those with a label, and the first of each text."""
    last_regions: Tensor
    """[W] of regions whose last states are used: the masked ones, and the global one."""
    labelled_words: Tensor
    """[N] of words with a label."""
    masked_regions: Tensor
    """[M] of masked regions, into [B x (R - 1)]: without the global region."""


def positions_of(
    attention_mask: Tensor, masked_lm_labels: Tensor, region_mask: Tensor, image_label: Tensor
) -> Positions:
    """Return the positions that a model computes and uses for these labels.

    attention_mask, masked_lm_labels: [B, T]. region_mask, image_label: [B, R - 1], without the global region.
    """
    labelled, masked = masked_lm_labels >= 0, image_label == 1
    wanted_regions, seen_regions = F.pad(masked, (1, 0)), F.pad(region_mask, (1, 0), value=1)
    return Positions(
        words=_needed(labelled, attention_mask).flatten().nonzero().squeeze(1),
        regions=_needed(wanted_regions, seen_regions).flatten().nonzero().squeeze(1),
        last_words=_with_first(labelled).flatten().nonzero().squeeze(1),
        last_regions=_with_first(wanted_regions).flatten().nonzero().squeeze(1),
        labelled_words=labelled.flatten().nonzero().squeeze(1),
        masked_regions=masked.flatten().nonzero().squeeze(1),
    )


@dataclass(frozen=True, kw_only=True)
class StreamPacking:
    """The positions of a stream to compute, and those whose last states are returned; None for all."""

    computed: Packing | None
    last: Packing | None


def stream_packing(wanted_BL: Tensor | None, mask_BL: Tensor | None) -> StreamPacking:
    """Return the packing of a stream whose last states are used at the true positions of wanted_BL (None: all).

    On a GPU this synchronises; `stream_packing_at` does not.
    """
    return StreamPacking(
        computed=computed_positions(wanted_BL, mask_BL),
        last=None if wanted_BL is None else wanted_positions(wanted_BL),
    )


def stream_packing_at(computed: Tensor, last: Tensor, states_BLH: Tensor) -> StreamPacking:
    """Return the packing of a stream of this shape whose positions are known (`Positions`)."""
    batch, length = states_BLH.shape[:2]
    packing = Packing(places=computed, batch=batch, length=length)
    return StreamPacking(
        computed=None if packing.whole else packing, last=Packing(places=last, batch=batch, length=length)
    )


def packed(states_BLH: Tensor, packing: Packing | None) -> Tensor:
    """Return the kept positions [W, H], or all of them [B, L, H] without a packing."""
    return states_BLH if packing is None else packing.pack(states_BLH)


def unpacked(states: Tensor, packing: Packing | None) -> Tensor:
    """Return states [B, L, H] of `packed` states."""
    return states if packing is None else packing.unpack(states)


def packing_of(needed_BL: Tensor) -> Packing:
    """Return the packing that keeps the positions where needed_BL is true. On a GPU this synchronises."""
    batch, length = needed_BL.shape
    return Packing(places=needed_BL.flatten().nonzero().squeeze(1), batch=batch, length=length)


def wanted_positions(wanted_BL: Tensor) -> Packing:
    """Keep the positions whose last states are wanted, and the first, which is pooled."""
    return packing_of(_with_first(wanted_BL))


def computed_positions(wanted_BL: Tensor | None, mask_BL: Tensor | None) -> Packing | None:
    """Keep the positions that the wanted states depend on: themselves, the first, and those that are not masked.

    A row whose mask hides everything is kept in full, because its attention falls back to all positions. Returns None
    if nothing can be left out: all states are wanted (wanted_BL is None), mask_BL is None, or the mask has a row per
    query.
    """
    if wanted_BL is None or mask_BL is None or mask_BL.dim() != 2:
        return None
    packing = packing_of(_needed(wanted_BL, mask_BL))
    return None if packing.whole else packing


def _needed(wanted_BL: Tensor, mask_BL: Tensor) -> Tensor:
    seen = mask_BL.bool()
    return _with_first(wanted_BL) | seen | ~seen.any(1, keepdim=True)


def _with_first(positions_BL: Tensor) -> Tensor:
    return positions_BL | (torch.arange(positions_BL.shape[1], device=positions_BL.device) == 0)
