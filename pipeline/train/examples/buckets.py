"""Batches in few shapes, so that a GPU can replay a recorded step: sizes are rounded up.

A CUDA graph holds the shapes that it was recorded with. The widths of a batch and the lengths of its lists of positions
differ from batch to batch: a length by some standard deviations, which grow as the root of the number of rows. Rounded
up to a multiple of four of them, most lengths repeat. What fills a list up is a position that nothing reads: padding
that attention masks hide, a word without a label, a region that is not masked. So losses and gradients stay those of
the batch, and the shape of a batch is a function of the batch alone, which a resumed run needs.

Shapes: B rows, T words, R regions with the global one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vilbert.model.packing import Positions

WIDTH_STEP = 8
"""Words of a text, and rows of a matrix, that tensor cores take at a time."""
REGION_STEP = 4
"""Regions of an image, which nearly always has as many as were asked for."""
WORDS, REGIONS, LABELLED, MASKED = 16, 40, 6, 9
"""Steps of the lengths of lists for one row: four standard deviations in captions of 14 tokens and images of 10 to 36
regions. Of 512 captions they fill lists up by 3 % (words) to 6 % (labelled words) on average, of 64 by 7 to 18 %."""


def rounded_up(count: int, step: int) -> int:
    """Return the smallest multiple of `step` that is at least `count`, and at least one step."""
    return max(-(-count // step), 1) * step


def filled_up(positions: Positions, *, rows: int, words: int, regions: int) -> Positions:
    """Return the positions of a batch with their lists filled up.

    Args:
        positions: As `positions_of` returns them.
        rows: B.
        words: T.
        regions: R.
    """
    every_word, every_region = rows * words, rows * regions
    labelled = _size(positions.labelled_words, rows, LABELLED)
    masked = _size(positions.masked_regions, rows, MASKED)
    return Positions(
        words=_filled(positions.words, _size(positions.words, rows, WORDS), every_word),
        regions=_filled(positions.regions, _size(positions.regions, rows, REGIONS), every_region),
        last_words=_filled(positions.last_words, rounded_up(labelled + rows, WIDTH_STEP), every_word),
        last_regions=_filled(positions.last_regions, rounded_up(masked + rows, WIDTH_STEP), every_region),
        labelled_words=_filled(positions.labelled_words, labelled, every_word),
        masked_regions=_filled(positions.masked_regions, masked, every_region - rows),
    )


def _size(places: Tensor, rows: int, step: int) -> int:
    return rounded_up(len(places), rounded_up(int(step * rows**0.5), WIDTH_STEP))


def _filled(places: Tensor, size: int, every: int) -> Tensor:
    """Return `places` with a position that is not among them behind, as often as it takes; all where they are fewer."""
    if size >= every:
        return torch.arange(every)
    is_free = torch.ones(every, dtype=torch.bool)
    is_free[places] = False
    return torch.cat([places, is_free.nonzero()[0].expand(size - len(places))])
