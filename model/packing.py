"""Compute only the positions that matter, and leave padding out of everything but attention itself.

A batch of captions is mostly padding once the longest sets its width, and pre-training reads the last states of masked
positions alone. So states are kept as one row a position that matters, [W, H], and spread to [B, L, H] for attention.
Nothing that matters depends on what is left out, so it comes out the same.

Shapes: B batch, L positions of a stream, W positions that matter over the whole batch, H width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Packing:
    """Which positions of a stream are kept."""

    places: Tensor
    """[W] int64, indices into the flattened [B x L], ascending."""
    batch: int
    """B."""
    length: int
    """L."""

    @property
    def whole(self) -> bool:
        """Whether every position is kept, so that there is nothing to leave out."""
        return len(self.places) == self.batch * self.length

    def pack(self, states_BLH: Tensor) -> Tensor:
        """Return the kept positions, [W, H]."""
        return states_BLH.flatten(0, 1).index_select(0, self.places)

    def unpack(self, states_WH: Tensor) -> Tensor:
        """Return [B, L, H] with zeros where nothing was kept."""
        spread = states_WH.new_zeros(self.batch * self.length, states_WH.shape[-1])
        return spread.index_copy(0, self.places, states_WH).unflatten(0, (self.batch, self.length))


@dataclass(frozen=True, kw_only=True)
class Positions:
    """Which positions of both streams a pre-training batch computes and reads; made on the CPU (`positions_of`).

    A GPU that finds them itself makes the CPU wait for it. All are int64 indices into flattened [B x L].
    """

    words: Tensor
    """[W] of words that are computed."""
    regions: Tensor
    """[W] of regions that are computed, the global one of each image included."""
    last_words: Tensor
    """[W] of words whose last states are read: those that have a label, and the first of each text."""
    last_regions: Tensor
    """[W] of regions whose last states are read: those that are masked, and the global one."""
    labelled_words: Tensor
    """[N] of words that have a label."""
    masked_regions: Tensor
    """[M] of masked regions, into [B x (R - 1)]: without the global region."""


def positions_of(
    attention_mask: Tensor, masked_lm_labels: Tensor, region_mask: Tensor, image_label: Tensor
) -> Positions:
    """Return the positions that a model computes and reads where these are its labels, as it would find them.

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


def packing_at(places: Tensor, batch: int, length: int) -> Packing | None:
    """Return the packing that keeps these positions; None where that is all of them."""
    packing = Packing(places=places, batch=batch, length=length)
    return None if packing.whole else packing


def packing_of(needed_BL: Tensor) -> Packing:
    """Return the packing that keeps the positions that are true in needed_BL; on a GPU this waits for it."""
    batch, length = needed_BL.shape
    return Packing(places=needed_BL.flatten().nonzero().squeeze(1), batch=batch, length=length)


def wanted_positions(wanted_BL: Tensor) -> Packing:
    """Keep the positions whose last states are wanted, and the first, which is pooled."""
    return packing_of(_with_first(wanted_BL))


def computed_positions(wanted_BL: Tensor | None, mask_BL: Tensor | None) -> Packing | None:
    """Keep the positions that wanted states depend on: themselves, the first, and what the mask lets be seen.

    A row whose mask hides everything is kept whole: its attention falls back to all positions. None where nothing can
    be left out: all states are wanted (wanted_BL is None), there is no mask, or it has a row for each position.
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
