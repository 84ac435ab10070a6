"""Which part of each global batch a process computes, and in how many pieces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.train.engine.distributed import Group
from vilbert.pipeline.train.run.settings import RunSettings


@dataclass(frozen=True, kw_only=True)
class Share:
    """Which part of each global batch a rank makes. No rank has more than one row more than another."""

    rank: int
    """Number of this process, from 0."""
    world: int
    """Number of processes."""
    accumulation: int
    """Micro-batches that a process works through one after the other before it updates the model; fewer where it has
    fewer rows, but one at least."""
    batch_size: int
    """Samples of a global batch, over all processes and micro-batches."""

    def positions(self, step: int) -> NDArray[np.int64]:
        """Return the positions of the stream that the rank takes of global batch `step`; none where ranks are more."""
        first = step * self.batch_size
        start, stop = (number * self.batch_size // self.world for number in (self.rank, self.rank + 1))
        return np.arange(first + start, first + stop, dtype=np.int64)

    def rows(self, step: int, limit: int | None) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the rank's positions, at least one, and which of them are to be read: those below `limit`.

        A rank without a part gets one position that is not read, for it takes part in the step all the same.
        """
        positions = self.positions(step)
        if not len(positions):
            return np.array([step * self.batch_size], dtype=np.int64), np.zeros(1, dtype=np.bool_)
        return positions, np.ones(len(positions), dtype=np.bool_) if limit is None else positions < limit


def share_of(settings: RunSettings, group: Group) -> Share:
    """Return which part of each global batch this rank computes; RefusedError where there are too many ranks."""
    try:
        settings.require_share(group.world)
    except ValueError as error:
        raise RefusedError(str(error)) from error
    return Share(
        rank=group.rank,
        world=group.world,
        accumulation=settings.grad_accumulation,
        batch_size=settings.batch_size,
    )
