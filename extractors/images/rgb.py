"""Pixels of any mode to RGB, and upright.

Colour profiles are not applied: no published feature set did, and sRGB is the rule. Modes that hold no colours by
themselves get a fixed meaning: 16-bit grey is scaled, 65535 to 255 (Pillow would clip it at 255); 32-bit integers and
floats, whose white is nowhere written, are stretched from their own least to their own greatest finite value.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def to_rgb(image: Image.Image) -> NDArray[np.uint8]:
    """Return [H, W, 3] of a loaded image of any of Pillow's modes, alpha composited on white."""
    if image.mode.startswith("I;16"):
        return _grey(_scaled(np.asarray(image), image.info.get("transparency")))
    if image.mode in ("I", "F"):
        return _grey(_stretched(np.asarray(image)))
    if image.mode == "La":
        image = image.convert("LA")  # the only way from premultiplied grey to RGBA
    if image.has_transparency_data:
        image = image.convert("RGBA")
        opaque = Image.new("RGB", image.size, "white")
        opaque.paste(image, mask=image)
        image = opaque
    return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def _grey(grey: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.repeat(grey[:, :, None], 3, axis=2)


def _scaled(values: NDArray[Any], transparent: object) -> NDArray[np.uint8]:
    """Return 16-bit grey in 8 bits, rounded; the one transparent value that a PNG may name becomes white."""
    grey = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if isinstance(transparent, int):
        grey[values == transparent] = 255
    return grey


def _stretched(values: NDArray[Any]) -> NDArray[np.uint8]:
    """Return values stretched over 0 to 255; what is not finite, or all of one value, is black."""
    scaled = values.astype(np.float32) / 2  # halved, for the whole range of floats is twice what a float holds
    finite = np.isfinite(scaled)
    low, high = (
        float(end(scaled, where=finite, initial=start)) for end, start in ((np.min, np.inf), (np.max, -np.inf))
    )
    if not low < high:
        return np.zeros(values.shape, np.uint8)
    scaled[~finite] = low
    scaled -= low
    scaled /= high - low
    scaled *= 255
    return np.rint(scaled, out=scaled).astype(np.uint8)


def upright(pixels: NDArray[np.uint8], orientation: int) -> NDArray[np.uint8]:
    """Return [H, W, 3] as EXIF `orientation`, 1 to 8, asks to see them."""
    match orientation:
        case 2:
            turned = pixels[:, ::-1]
        case 3:
            turned = pixels[::-1, ::-1]
        case 4:
            turned = pixels[::-1]
        case 5:
            turned = pixels.transpose(1, 0, 2)
        case 6:
            turned = np.rot90(pixels, -1)
        case 7:
            turned = pixels[::-1, ::-1].transpose(1, 0, 2)
        case 8:
            turned = np.rot90(pixels, 1)
        case _:
            turned = pixels
    return np.ascontiguousarray(turned)
