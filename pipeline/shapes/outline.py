"""The shapes as pixels: the coverage of each pixel of a small tile by a shape.

All geometry is in whole numbers, so a tile is the same on every machine and under every version of the imaging library.
"""

from __future__ import annotations

import math
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CLASS_NAMES = ("circle", "square", "triangle", "pentagon", "star", "cross", "ring", "heart", "diamond", "crescent")

_SAMPLES = 4  # along each side of a pixel
_UNIT = 1024  # whole-number length of a shape's radius in the tables below
_EDGE = 5  # width of the dark edge in samples: 1.25 pixels

Vertices = list[tuple[int, int]]
Grid = NDArray[np.int64]


class Stamp(NamedTuple):
    """A shape drawn in the middle of a square tile of 2 * radius + 3 pixels a side; coverage 0–256, read-only."""

    fill: NDArray[np.int32]
    """[side, side] coverage by the shape, edge included."""
    core: NDArray[np.int32]
    """[side, side] coverage by the shape without its edge."""
    solid: NDArray[np.bool_]
    """[side, side] the pixels that belong to the shape: at least half covered."""


def _around(count: int, *radii: float) -> Vertices:
    """Return `count` vertices clockwise from the top, their distances from the centre taken in turn from `radii`."""
    turns = [2 * math.pi * k / count for k in range(count)]
    lengths = [_UNIT * radii[k % len(radii)] for k in range(count)]
    return [(round(r * math.sin(t)), round(-r * math.cos(t))) for r, t in zip(lengths, turns, strict=True)]


def _heart() -> Vertices:
    turns = [2 * math.pi * k / 40 for k in range(40)]
    curve = [
        (16 * math.sin(t) ** 3, 13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t))
        for t in turns
    ]
    return [(round(x * _UNIT / 16.5), round((-y - 2.5) * _UNIT / 16.5)) for x, y in curve]


_SIDE, _ARM = round(0.84 * _UNIT), round(0.34 * _UNIT)
_POLYGONS: dict[str, Vertices] = {
    "square": [(-_SIDE, -_SIDE), (_SIDE, -_SIDE), (_SIDE, _SIDE), (-_SIDE, _SIDE)],
    "triangle": [(0, -_UNIT), (round(0.98 * _UNIT), round(0.78 * _UNIT)), (round(-0.98 * _UNIT), round(0.78 * _UNIT))],
    "pentagon": _around(5, 1.0),
    "star": _around(10, 1.0, 0.42),
    "cross": [
        *[(-_ARM, -_UNIT), (_ARM, -_UNIT), (_ARM, -_ARM), (_UNIT, -_ARM), (_UNIT, _ARM), (_ARM, _ARM)],
        *[(_ARM, _UNIT), (-_ARM, _UNIT), (-_ARM, _ARM), (-_UNIT, _ARM), (-_UNIT, -_ARM), (-_ARM, -_ARM)],
    ],
    "heart": _heart(),
    "diamond": _around(4, 1.0, 0.66),
}


def _inside_polygon(x: Grid, y: Grid, vertices: Vertices) -> NDArray[np.bool_]:
    """Return [rows, columns] which points lie inside, by the even-odd rule on exact whole-number cross products."""
    inside = np.zeros((len(y), len(x)), dtype=bool)
    for (x1, y1), (x2, y2) in zip(vertices, vertices[1:] + vertices[:1], strict=True):
        rows = np.flatnonzero((y1 > y) != (y2 > y))
        side = (x - x1)[None, :] * (y2 - y1) - ((y[rows] - y1) * (x2 - x1))[:, None]
        inside[rows] ^= (side < 0) if y2 > y1 else (side > 0)
    return inside


def _inside(shape: str, radius: int, angle: int) -> NDArray[np.bool_]:
    """Return which samples of the tile lie inside the shape; lengths are 1 / (2 * _SAMPLES * _UNIT**2) of a pixel."""
    samples = (2 * radius + 3) * _SAMPLES
    cosine, sine = round(_UNIT * math.cos(math.radians(angle))), round(_UNIT * math.sin(math.radians(angle)))
    scale = 2 * _SAMPLES * radius
    centres = (2 * np.arange(samples, dtype=np.int64) + 1 - samples) * _UNIT**2  # symmetric about the tile's centre
    if shape in _POLYGONS:
        turned = [((x * cosine - y * sine) * scale, (x * sine + y * cosine) * scale) for x, y in _POLYGONS[shape]]
        return _inside_polygon(centres, centres, turned)
    length = scale * _UNIT**2
    squares = centres**2
    distance = squares[None, :] + squares[:, None]
    disc: NDArray[np.bool_] = distance <= length**2
    match shape:
        case "circle":
            return disc
        case "ring":
            return disc & (distance >= (length // 2) ** 2)
        case "crescent":
            x, y = (11 * _UNIT * turn * scale // 20 for turn in (cosine, sine))
            bite = ((centres - x) ** 2)[None, :] + ((centres - y) ** 2)[:, None] <= (length * 4 // 5) ** 2
            return disc & ~bite
    raise ValueError(f"no shape {shape!r}; the shapes are: {', '.join(CLASS_NAMES)}")


def _eroded(inside: NDArray[np.bool_], width: int) -> NDArray[np.bool_]:
    """Return the samples whose neighbours up to `width` steps away are all inside."""
    for _ in range(width):
        shrunk = inside.copy()
        shrunk[1:] &= inside[:-1]
        shrunk[:-1] &= inside[1:]
        shrunk[:, 1:] &= inside[:, :-1]
        shrunk[:, :-1] &= inside[:, 1:]
        inside = shrunk
    return inside


def _coverage(inside: NDArray[np.bool_]) -> NDArray[np.int32]:
    side = len(inside) // _SAMPLES
    count = inside.reshape(side, _SAMPLES, side, _SAMPLES).sum(axis=(1, 3), dtype=np.int32)
    return np.asarray(count * (256 // (_SAMPLES * _SAMPLES)))


@cache
def stamp(shape: str, radius: int, angle: int) -> Stamp:
    """Return the stamp of `shape` with `radius` in pixels, turned clockwise by `angle` degrees."""
    inside = _inside(shape, radius, angle)
    fill, core = _coverage(inside), _coverage(_eroded(inside, _EDGE))
    solid = fill >= 128
    for array in (fill, core, solid):
        array.flags.writeable = False  # shared by every caller through the cache
    return Stamp(fill, core, solid)
