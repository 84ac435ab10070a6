"""How the scores of all captions with all images are computed: in which batches, and how much is held meanwhile.

    for each panel of images:       encode them once, as far as no caption has a say, and hold their states
        for each block of captions:     encode them, as far as no image has a say, and hold their states
            for each batch:                 a few captions with a chunk of the panel's images, through the rest

Where all images fit into the budget there is one panel, and each caption, too, is encoded once; otherwise once a panel.
Captions are sorted by length and images by their number of regions, so that a batch has little padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import RefusedError

Numbers = NDArray[np.int64]
ITEM_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreSettings:
    """How every caption is scored against every image."""

    pairs_per_batch: int = 256
    """Captions times images that go through the model at a time."""
    hold_bytes: int = 2_000_000_000
    """Most bytes of encoded images and captions that are held."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the computation and of what is held; bfloat16 is for GPUs and halves the bytes."""
    save_seconds: float = 10.0
    """Seconds of work, at most about, that a power cut loses; a killed process loses one batch."""

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if self.pairs_per_batch < 1:
            raise RefusedError(f"--pairs-per-batch {self.pairs_per_batch}: give at least 1")
        if self.hold_bytes < 1:
            raise RefusedError(f"--hold-bytes {self.hold_bytes}: give at least what one batch of images takes")
        if not self.save_seconds >= 0:
            raise RefusedError(f"--save-seconds {self.save_seconds}: give 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plan:
    """All batches, in the order they run."""

    pairs: int
    """Captions times images."""
    batches: int
    """Runs of the part of the model that needs both."""
    held_bytes: int
    """Bytes of encoded images and captions, the most at any time."""
    batch_bytes: int
    """Bytes of the two streams' states of the largest batch; a layer at work takes several times that."""
    panels: tuple[tuple[Numbers, ...], ...]
    """Images by number: chunks for one batch, in panels that are held together."""
    blocks: tuple[Numbers, ...]
    """Captions by number, in blocks that are encoded together."""
    captions_per_batch: int
    """Captions of a block that meet a chunk of images at a time."""


def plan(words: Numbers, regions: Numbers, *, text_width: int, image_width: int, settings: ScoreSettings) -> Plan:
    """Plan the batches for captions of `words` word pieces [captions] and images of `regions` regions [images].

    words: with special tokens and the task's token. regions: with the global one. text_width, image_width: of the
    model's two streams. Raises RefusedError where there is nothing to score, or the budget cannot hold one batch.
    """
    if not len(words) or not len(regions):
        raise RefusedError(f"{len(words)} captions and {len(regions)} images: nothing to score")
    size = ITEM_BYTES[settings.precision]
    chunks = _chunks(regions, settings.pairs_per_batch)
    widest = max(len(chunk) for chunk in chunks)
    chunk_bytes = [len(chunk) * int(regions[chunk].max()) * image_width * size for chunk in chunks]
    one_caption = int(words.max()) * text_width * size
    room = max(1, (settings.hold_bytes - max(chunk_bytes)) // 4 // one_caption)
    blocks = _cut(np.argsort(words, kind="stable"), min(settings.pairs_per_batch, room))
    text_bytes = max(len(block) * int(words[block].max()) for block in blocks) * text_width * size
    if max(chunk_bytes) + text_bytes > settings.hold_bytes:
        raise RefusedError(
            f"--hold-bytes {settings.hold_bytes}: {widest} images and a caption take {max(chunk_bytes) + text_bytes}; "
            "raise it, or lower --pairs-per-batch"
        )
    panels, panel_bytes = _panels(chunks, chunk_bytes, settings.hold_bytes - text_bytes)
    captions_per_batch = max(1, settings.pairs_per_batch // widest)
    rows = widest * min(captions_per_batch, max(len(block) for block in blocks))
    return Plan(
        pairs=len(words) * len(regions),
        batches=len(chunks) * sum(-(-len(block) // captions_per_batch) for block in blocks),
        held_bytes=panel_bytes + text_bytes,
        batch_bytes=rows * (int(regions.max()) * image_width + int(words.max()) * text_width) * size,
        panels=panels,
        blocks=blocks,
        captions_per_batch=captions_per_batch,
    )


def _chunks(regions: Numbers, most: int) -> tuple[Numbers, ...]:
    return _cut(np.argsort(regions, kind="stable"), most)


def _cut(numbers: Numbers, most: int) -> tuple[Numbers, ...]:
    """Cut into as few parts of at most `most` as there can be, of nearly one size."""
    return tuple(np.array_split(numbers, -(-len(numbers) // most)))


def _panels(
    chunks: tuple[Numbers, ...], chunk_bytes: list[int], budget: int
) -> tuple[tuple[tuple[Numbers, ...], ...], int]:
    """Return chunks in panels of at most `budget` bytes, and the bytes of the largest."""
    panels: list[list[Numbers]] = []
    taken: list[int] = []
    for chunk, size in zip(chunks, chunk_bytes, strict=True):
        if not taken or taken[-1] + size > budget:
            panels.append([])
            taken.append(0)
        panels[-1].append(chunk)
        taken[-1] += size
    return tuple(map(tuple, panels)), max(taken)
