"""Perceptual hash of an image: 64 bits that hardly change when the image is resized or compressed again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.rebuild.scores.score import Scored

_SIDE, _KEPT = 32, 8
_COSINES = np.cos(np.pi / (2 * _SIDE) * np.outer(np.arange(_KEPT), 2 * np.arange(_SIDE) + 1))
"""[8, 32] the first rows of the discrete cosine transform (type II, not normalised)."""
_DIGITS = 3
"""Decimal places to which coefficients are rounded (the largest has six digits before the point), so that those of a
flat image are zero on every machine in spite of rounding errors."""


class PerceptualHash:
    """The field `phash`, 16 hex digits."""

    needs_images = True
    uses_model = False
    fields = ("phash",)

    def __init__(self, settings: object) -> None:
        """Accept the settings of the command, which are not used."""

    def fingerprint(self) -> dict[str, Any]:
        """Return the version of the method."""
        return {"version": 1}

    def score(self, samples: Sequence[Scored]) -> list[dict[str, Any]]:
        """Return the hash of each sample's image."""
        return [
            {} if sample.pixels is None else {"phash": f"{perceptual_hash(sample.pixels):016x}"} for sample in samples
        ]


def perceptual_hash(pixels: NDArray[np.uint8]) -> int:
    """Return 64 bits that describe the coarse structure of an image.

    The image is converted to grey and 32x32 pixels. The 8x8 lowest frequencies of its cosine transform are compared
    with their median, row by row; the first bit is the highest. Hashes of an image and of a resized or recompressed
    copy differ in few bits, those of unrelated images in about 32.

    Args:
        pixels: [H, W, 3] RGB.

    Source: pHash (Zauner, "Implementation and benchmarking of perceptual image hash functions", 2010) in the variant of
    the package imagehash, whose `phash` returns the same bits.
    """
    from PIL import Image

    grey = Image.fromarray(pixels).convert("L").resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)
    low = np.round(_COSINES @ np.asarray(grey, np.float64) @ _COSINES.T, _DIGITS)
    return int.from_bytes(np.packbits(low > np.median(low)).tobytes(), "big")
