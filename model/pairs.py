"""Pair texts with images: row by row, one text with many images, or every text with every image of a batch.

The text layers before the first co-attention do not depend on the image, so they run once per text before rows are
repeated.
Shapes: B texts, C images, T words, R regions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor

from vilbert.model.packing import Packing

Pairing = Literal["rows", "one_text", "all"]


@dataclass(frozen=True, kw_only=True)
class Streams:
    """The states of both streams, and their masks: 1 (attend) and 0 (masked), or None if nothing is masked."""

    text: Tensor
    """[B, T, H], or [W, H] if packed."""
    image: Tensor
    """[C, R, V], or [W, V] if packed."""
    text_mask: Tensor | None
    """[B, T] or [B, T, T]."""
    image_mask: Tensor | None
    """[C, R] or [C, R, R]."""
    text_packing: Packing | None = None
    """Packing of the words, if padding is skipped."""
    image_packing: Packing | None = None
    """Packing of the regions, if padding is skipped."""


def one_text_many_images(streams: Streams) -> Streams:
    """Repeat one text for each of C images (the fast retrieval mode of the reference)."""
    images = len(streams.image)
    if len(streams.text) != 1:
        raise ValueError(f"pairing 'one_text' takes one text for {images} images, not {len(streams.text)}")
    mask = streams.text_mask
    return replace(
        streams,
        text=streams.text.expand(images, -1, -1),
        text_mask=None if mask is None else mask.expand(images, *mask.shape[1:]),
    )


def all_pairs(streams: Streams) -> Streams:
    """Pair each of B texts with each of C images: row text x C + image (the reference's in-batch pairs)."""
    texts, images = len(streams.text), len(streams.image)

    def tiled(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor[None].expand(texts, *tensor.shape).flatten(0, 1)

    def repeated(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.repeat_interleave(images, dim=0)

    image, text = tiled(streams.image), repeated(streams.text)
    assert image is not None
    assert text is not None
    return Streams(text=text, image=image, text_mask=repeated(streams.text_mask), image_mask=tiled(streams.image_mask))


def pair(streams: Streams, pairing: Pairing) -> Streams:
    """Return the streams with equal numbers of texts and images. Raise ValueError if that is impossible."""
    if pairing == "one_text":
        return one_text_many_images(streams)
    if pairing == "all":
        return all_pairs(streams)
    if pairing != "rows":
        raise ValueError(f"pairing {pairing!r}: expected 'rows', 'one_text' or 'all'")
    texts = len(streams.text) if streams.text_packing is None else streams.text_packing.batch
    images = len(streams.image) if streams.image_packing is None else streams.image_packing.batch
    if texts != images:
        raise ValueError(
            f"{texts} texts and {images} images: give the same number of both, or a pairing "
            "('one_text' for one text and many images, 'all' for every pair)"
        )
    return streams
