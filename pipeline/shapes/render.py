"""Render a scene as pixels."""

from __future__ import annotations

import io
from functools import cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vilbert.pipeline.shapes.draws import Draws, Stream
from vilbert.pipeline.shapes.outline import stamp
from vilbert.pipeline.shapes.scene import Scene, SceneObject, tile_of

_RGB = {
    "red": (214, 40, 40),
    "orange": (245, 130, 20),
    "yellow": (240, 215, 30),
    "green": (40, 160, 60),
    "cyan": (40, 200, 215),
    "blue": (40, 80, 215),
    "purple": (125, 45, 170),
    "pink": (250, 130, 190),
}
_JITTER = 12  # either way, in each colour channel
_NOISE = 6  # grey levels either way
_NOISE_LEVELS = (np.arange(256) * (2 * _NOISE + 1) // 256 - _NOISE).astype(np.int32)  # of a random byte


def _background(scene: Scene, draws: Draws) -> NDArray[np.int32]:
    """Return [3, height, width]: a gradient between two greyish tones, light or dark, with noise over it."""
    low, high = (175, 245) if draws.chance(70) else (25, 85)
    start, end = (np.array([draws.between(low, high) for _ in range(3)], dtype=np.int32) for _ in range(2))
    start, end = ((tone + 3 * tone.sum() // 3) // 4 for tone in (start, end))  # most of the way to grey
    across, down = draws.below(5), draws.below(5)
    whole = max(1, across * scene.width + down * scene.height)
    along_x, along_y = np.arange(scene.width) * across * 256 // whole, np.arange(scene.height) * down * 256 // whole
    ramp = (along_x[None, :] + along_y[:, None]).astype(np.int32)  # 0-255
    noise = _NOISE_LEVELS[draws.octets(scene.width * scene.height).reshape(scene.height, scene.width)]
    tones = [int(first) + (int(last - first) * ramp >> 8) for first, last in zip(start, end, strict=True)]
    return np.stack(tones) + noise  # stays clear of 0 and 255


@cache
def _dark(texture: str, side: int) -> NDArray[np.bool_]:
    """Return a read-only mask [side, side] of the dark part of the texture."""
    x, y = np.arange(side)[None, :], np.arange(side)[:, None]
    dark = np.zeros((side, side), dtype=bool)
    match texture:
        case "striped":
            dark |= (x + y) // 4 % 2 == 1
        case "dotted":
            dark |= (x % 7 - 3) ** 2 + (y % 7 - 3) ** 2 <= 5
        case "checkered":
            dark |= (x // 5 + y // 5) % 2 == 1
    dark.flags.writeable = False  # shared by every caller through the cache
    return dark


def _over(under: NDArray[np.int32], colour: NDArray[np.int32], coverage: NDArray[np.int32]) -> NDArray[np.int32]:
    return under * (256 - coverage) + colour * coverage >> 8


def _draw(canvas: NDArray[np.int32], item: SceneObject, draws: Draws) -> None:
    shape = stamp(item.shape, item.radius, item.angle)
    levels = [min(255, max(0, level + draws.between(-_JITTER, _JITTER))) for level in _RGB[item.colour]]
    colour = np.array(levels, dtype=np.int32)[:, None, None]
    inner = np.where(_dark(item.texture, len(shape.fill)), colour * 45 // 100, colour)
    tile = canvas[:, *tile_of(item)]
    tile[:] = _over(_over(tile, colour * 30 // 100, shape.fill), inner, shape.core)


def paint(scene: Scene) -> NDArray[np.uint8]:
    """Return the scene's RGB pixels [height, width, 3], computed in integers, so they are the same on all machines."""
    draws = Draws(scene.seed, scene.index, Stream.BACKGROUND)
    canvas = _background(scene, draws)
    for item in scene.objects:
        _draw(canvas, item, draws)
    return np.ascontiguousarray(canvas.astype(np.uint8).transpose(1, 2, 0))


def render(scene: Scene) -> Image.Image:
    """Return the scene as an RGB image."""
    return Image.fromarray(paint(scene))


def jpeg(scene: Scene) -> bytes:
    """Return the scene as a JPEG file, quality 95 without chroma subsampling.

    The bytes are the same for one version of the JPEG library; another may differ by a grey level.
    """
    buffer = io.BytesIO()
    render(scene).save(buffer, format="JPEG", quality=95, subsampling=0)
    return buffer.getvalue()
