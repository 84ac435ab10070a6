"""Compute only the positions that matter, and leave padding out of everything but attention itself.

A batch of captions is mostly padding once the longest sets its width, and pre-training reads the last states of masked
positions alone. So states are kept as one row a position that matters, [W, H], and spread to [B, L, H] for attention.
Nothing that matters depends on what is left out, so it comes out the same.

Shapes: B batch, L positions of a stream, W positions that matter over the whole batch, H width.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
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
    seen = mask_BL.bool()
    packing = packing_of(_with_first(wanted_BL) | seen | ~seen.any(1, keepdim=True))
    return None if packing.whole else packing


def _with_first(positions_BL: Tensor) -> Tensor:
    return positions_BL | (torch.arange(positions_BL.shape[1], device=positions_BL.device) == 0)
