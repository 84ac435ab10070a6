"""Choose the caption of each image, and whether it is its own.

The alignment task needs pairs that do not match. A partner comes from the same window of the stream, so its shard is
open already, and no list of all captions is held in memory. A caption that is also one of the image's own would be a
wrong label: it is never taken.

Shapes: B samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from vilbert.model.losses import IGNORED, MATCHES
from vilbert.pipeline.train.data.order import Order, Places
from vilbert.pipeline.train.examples.draws import Stream, below, bits, uniforms

if TYPE_CHECKING:
    from vilbert.pipeline.train.data.corpus import Corpus

TRIES = 8
"""Number of partners to try before an image keeps its own caption, if captions of a window are too similar."""
MISMATCHES = 1


def choose_captions(
    corpus: Corpus,
    order: Order,
    positions: NDArray[np.int64],
    places: Places,
    sample_keys: NDArray[np.uint64],
    captions: Sequence[tuple[str, ...]],
    *,
    swap: float,
) -> tuple[list[str], NDArray[np.int64]]:
    """Return the text that each image is shown with, and int64 [B]: 0 where they match, 1 where not, -1 without text.

    captions: each image's own. swap: share of the images with captions that get another image's.
    """
    counts = np.array([len(texts) for texts in captions], dtype=np.int64)
    drawn = below(bits(sample_keys, Stream.CAPTION, 1)[:, 0], np.maximum(counts, 1))
    chosen = [_caption(texts, which) for texts, which in zip(captions, drawn.tolist(), strict=True)]
    label = np.where(counts > 0, MATCHES, IGNORED)

    is_swapped = uniforms(sample_keys, Stream.SWAP, 1)[:, 0] < swap
    has_partners = places.window_stop - places.window_start > 1
    left = np.flatnonzero((counts > 0) & is_swapped & has_partners)  # rows without a partner so far
    words = bits(sample_keys, Stream.PARTNER, 2 * TRIES)  # of each attempt one for the partner, one for its caption
    for attempt in range(TRIES):
        if not len(left):
            break
        partners = order.at(_others(positions[left], pick(places, left), words[left, 2 * attempt]))
        texts_of = corpus.captions(partners)
        counts = np.array([max(1, len(texts or ())) for texts in texts_of], dtype=np.int64)
        drawn = below(words[left, 2 * attempt + 1], counts)
        offered = [_caption(texts, which) for texts, which in zip(texts_of, drawn.tolist(), strict=True)]
        differs = partners.sample != places.sample[left]
        fits = [_fits(text, captions[row]) for row, text in zip(left.tolist(), offered, strict=True)] & differs
        for number in np.flatnonzero(fits).tolist():
            chosen[left[number]], label[left[number]] = offered[number], MISMATCHES
        left = left[~fits]
    return chosen, label


def _caption(texts: Sequence[str] | None, which: int) -> str:
    """Return one of the captions; "" if the image has no captions."""
    return texts[which] if texts else ""


def _fits(text: str, own: Sequence[str]) -> bool:
    """Return whether a caption may be used as a mismatch for an image with the captions `own`."""
    return bool(text) and _fold(text) not in map(_fold, own)


def choose_images(
    order: Order,
    positions: NDArray[np.int64],
    places: Places,
    sample_keys: NDArray[np.uint64],
) -> tuple[Places, NDArray[np.bool_]]:
    """Return another image of the window for each, and bool [B]: whether there is one."""
    words = bits(sample_keys, Stream.IMAGE, TRIES)
    others = order.at(
        _others(np.repeat(positions, TRIES), Places(*(np.repeat(part, TRIES) for part in places)), words.ravel())
    )
    # Where a data set is passed over more than once in an epoch, another position may hold the same image.
    differs = others.sample.reshape(-1, TRIES) != places.sample[:, None]
    first = differs.argmax(axis=1) + np.arange(len(positions)) * TRIES
    return pick(others, first), differs.any(axis=1)


def pick(places: Places, rows: NDArray[np.int64]) -> Places:
    """Return some of the places."""
    return Places(*(part[rows] for part in places))


def _others(positions: NDArray[np.int64], places: Places, words: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return positions drawn uniformly from the same window, excluding the own one unless there is no other."""
    drawn = places.window_start + below(words, np.maximum(places.window_stop - places.window_start - 1, 1))
    past = (drawn >= positions) & (places.window_stop - places.window_start > 1)
    return drawn + past


def _fold(caption: str) -> str:
    """Return a caption normalised for comparison: case and spaces are ignored."""
    return " ".join(caption.casefold().split())
