"""Perceptual hashes: copies of a photograph are near, other photographs are far."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from vilbert.pipeline.rebuild.scores.phash import perceptual_hash

COCO10 = Path(__file__).resolve().parents[5] / "shared/data/coco10/images"


def picture(seed: int, side: int = 96) -> NDArray[np.uint8]:
    """Return smooth random colours."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC))


def recompressed(pixels: NDArray[np.uint8], *, scale: float, quality: int) -> NDArray[np.uint8]:
    image = Image.fromarray(pixels)
    smaller = image.resize((round(image.width * scale), round(image.height * scale)))
    buffer = io.BytesIO()
    smaller.save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer).convert("RGB"))


def bits(one: int, other: int) -> int:
    return (one ^ other).bit_count()


@pytest.mark.parametrize(
    ("seed", "expected"), [(0, "f1b939b43331c4cc"), (1, "b30ec389bc1b43e6"), (2, "998b63531653cbac")]
)
def test_hashes_are_those_of_imagehash(seed: int, expected: str) -> None:
    """Compare with `str(imagehash.phash(image))` of imagehash 4.3.2."""
    assert f"{perceptual_hash(picture(seed)):016x}" == expected


def test_flat_images_have_one_hash() -> None:
    hashes = {perceptual_hash(np.full((20 + grey, 30, 3), grey, np.uint8)) for grey in (1, 77, 128, 255)}
    assert hashes == {1 << 63}
    assert perceptual_hash(np.zeros((5, 5, 3), np.uint8)) == 0


def photographs() -> list[NDArray[np.uint8]]:
    if COCO10.is_dir():
        return [np.asarray(Image.open(path).convert("RGB")) for path in sorted(COCO10.glob("*.jpg"))]
    return [picture(seed) for seed in range(10)]


def test_copies_are_near_and_other_photographs_are_far() -> None:
    originals = photographs()
    hashes = [perceptual_hash(pixels) for pixels in originals]
    for pixels, expected in zip(originals, hashes, strict=True):
        for scale, quality in itertools.product((0.4, 1.0, 1.7), (40, 90)):
            assert bits(perceptual_hash(recompressed(pixels, scale=scale, quality=quality)), expected) <= 4
    assert min(bits(one, other) for one, other in itertools.combinations(hashes, 2)) > 10
