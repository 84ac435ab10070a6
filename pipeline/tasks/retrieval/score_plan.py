"""Plan how all captions are scored against all images: the batches, and the memory they need.

        for each panel of images:       encode them once up to the first co-attention and keep their states
            for each block of captions:     encode them up to the first co-attention and keep their states
                for each batch:                 run some captions with a chunk of the panel's images through the rest

If all images fit into the budget there is one panel and each caption is encoded once; otherwise once per panel.
Captions are sorted by length and images by their number of regions, so batches contain little padding.
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
    """Settings of scoring every caption against every image."""

    pairs_per_batch: int = 256
    """Number of caption-image pairs per forward pass."""
    hold_bytes: int = 2_000_000_000
    """Maximum memory for encoded images and captions, in bytes."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Precision of the computation and the stored states; bfloat16 is for GPUs and halves the memory."""
    save_seconds: float = 10.0
    """Approximate seconds of work that a power failure loses; a killed process loses one batch."""

    def __post_init__(self) -> None:
        """Check the ranges."""
        if self.pairs_per_batch < 1:
            raise RefusedError(f"--pairs-per-batch {self.pairs_per_batch}: give at least 1")
        if self.hold_bytes < 1:
            raise RefusedError(f"--hold-bytes {self.hold_bytes}: give at least what one batch of images takes")
        if not self.save_seconds >= 0:
            raise RefusedError(f"--save-seconds {self.save_seconds}: give 0 or more")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Plan:
    """All batches in order of execution."""

    pairs: int
    """Captions times images."""
    batches: int
    """Number of forward passes of the layers that need both streams."""
    held_bytes: int
    """Maximum memory of encoded images and captions, in bytes."""
    batch_bytes: int
    """Size of both streams' states in the largest batch, in bytes; a layer needs several times this."""
    panels: tuple[tuple[Numbers, ...], ...]
    """Image indices: chunks for one batch, grouped in panels that are kept together."""
    blocks: tuple[Numbers, ...]
    """Caption indices in blocks that are encoded together."""
    captions_per_batch: int
    """Number of captions of a block per batch."""


def plan(words: Numbers, regions: Numbers, *, text_width: int, image_width: int, settings: ScoreSettings) -> Plan:
    """Plan the batches.

    Args:
        words: Tokens of each caption, including special tokens and the task token.
        regions: Regions of each image, including the global one.
        text_width: Hidden size of the text stream.
        image_width: Hidden size of the image stream.
        settings: Batch size, memory and precision.

    Raises:
        RefusedError: There is nothing to score, or the budget cannot hold one batch.
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
    """Split into the minimum number of parts of at most `most` elements and nearly equal size."""
    return tuple(np.array_split(numbers, -(-len(numbers) // most)))


def _panels(
    chunks: tuple[Numbers, ...], chunk_bytes: list[int], budget: int
) -> tuple[tuple[tuple[Numbers, ...], ...], int]:
    """Group chunks into panels of at most `budget` bytes; return the panels and the size of the largest."""
    panels: list[list[Numbers]] = []
    taken: list[int] = []
    for chunk, size in zip(chunks, chunk_bytes, strict=True):
        if not taken or taken[-1] + size > budget:
            panels.append([])
            taken.append(0)
        panels[-1].append(chunk)
        taken[-1] += size
    return tuple(map(tuple, panels)), max(taken)
