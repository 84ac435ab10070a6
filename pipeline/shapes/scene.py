"""A scene: the content of one image, as a pure function of (seed, index)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.shapes.draws import Draws, Stream
from vilbert.pipeline.shapes.outline import CLASS_NAMES as CLASS_NAMES
from vilbert.pipeline.shapes.outline import stamp

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SIZES = ("small", "medium", "large")
TEXTURES = ("solid", "striped", "dotted", "checkered")
ATTRIBUTE_NAMES = COLOURS + SIZES + TEXTURES
CANVASES = ((240, 180), (256, 192), (224, 224), (200, 240), (180, 240))  # (width, height)
MOST_OBJECTS = 7
LEAST_VISIBLE = 70  # percent of an object that nothing covers

_RADII = {"small": (12, 14), "medium": (18, 20), "large": (26, 30)}  # pixels; the gaps keep the words unambiguous
_TILT = 12  # degrees either way: a tilted square must not look like a diamond
_TRIES = 60


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneObject:
    """One object of a scene."""

    shape: str
    """One of CLASS_NAMES."""
    colour: str
    """One of COLOURS."""
    size: str
    """One of SIZES."""
    texture: str
    """One of TEXTURES."""
    x: int
    """Column of the centre pixel."""
    y: int
    """Row of the centre pixel."""
    radius: int
    """Pixels."""
    angle: int
    """Degrees clockwise."""
    box_xyxy: tuple[int, int, int, int] = (0, 0, 0, 0)
    """Bounding box of the visible pixels; the right and lower ends are exclusive."""
    area: int = 0
    """Visible pixels."""

    @property
    def class_id(self) -> int:
        """1-based, as COCO's `category_id` and the detector count: 0 is the background."""
        return CLASS_NAMES.index(self.shape) + 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """The content of an image; an object hides the parts of earlier objects that it covers."""

    seed: int
    index: int
    width: int
    height: int
    objects: tuple[SceneObject, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the scene as plain containers, as in a line of `scenes.jsonl`."""
        return asdict(self)


def split_of(index: int) -> str:
    """Return the split of scene `index`: of every ten, eight are `train`, one `val`, one `test`.

    It depends on the index alone, so a larger data set of the same seed contains the smaller one.
    """
    return {8: "val", 9: "test"}.get(index % 10, "train")


def tile_of(item: SceneObject) -> tuple[slice, slice]:
    """Return the rows and columns of the canvas under the object's stamp."""
    reach = item.radius + 1
    return slice(item.y - reach, item.y + reach + 1), slice(item.x - reach, item.x + reach + 1)


def _solid(item: SceneObject) -> NDArray[np.bool_]:
    return stamp(item.shape, item.radius, item.angle).solid


def owners(objects: tuple[SceneObject, ...], width: int, height: int) -> NDArray[np.int8]:
    """Return [height, width] the position of the object seen at each pixel, -1 for the background."""
    seen = np.full((height, width), -1, dtype=np.int8)
    for position, item in enumerate(objects):
        seen[tile_of(item)][_solid(item)] = position
    return seen


def _covered(item: SceneObject, seen: NDArray[np.int8]) -> NDArray[np.int64]:
    """Return how many pixels each object before `item` would lose under it."""
    under = seen[tile_of(item)][_solid(item)]
    return np.bincount(under[under >= 0], minlength=MOST_OBJECTS)


def _place(wanted: list[tuple[str, str, str, str]], width: int, height: int, draws: Draws) -> list[SceneObject]:
    """Place objects over each other; an object without room after the maximum number of tries is omitted."""
    placed: list[SceneObject] = []
    seen = np.full((height, width), -1, dtype=np.int8)
    whole, left = np.zeros((2, MOST_OBJECTS), dtype=np.int64)  # pixels of each object, and those still visible
    for shape, colour, size, texture in wanted:
        radius, angle = draws.between(*_RADII[size]), draws.between(-_TILT, _TILT)
        for _ in range(_TRIES):
            x, y = (draws.between(radius + 3, side - radius - 4) for side in (width, height))
            item = SceneObject(
                shape=shape, colour=colour, size=size, texture=texture, x=x, y=y, radius=radius, angle=angle
            )
            lost = _covered(item, seen)
            if np.all(100 * (left - lost) >= LEAST_VISIBLE * whole):
                left -= lost
                whole[len(placed)] = left[len(placed)] = np.count_nonzero(_solid(item))
                seen[tile_of(item)][_solid(item)] = len(placed)
                placed.append(item)
                break
    return placed


def _measured(item: SceneObject, visible: NDArray[np.bool_]) -> SceneObject:
    """Return the object with its box and area, computed from its visible pixels."""
    rows, columns = np.flatnonzero(visible.any(axis=1)), np.flatnonzero(visible.any(axis=0))
    fields = {name: getattr(item, name) for name in SceneObject.__dataclass_fields__}
    fields["box_xyxy"] = (int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1)
    fields["area"] = int(visible.sum())
    return SceneObject(**fields)


def make_scene(seed: int, index: int) -> Scene:
    """Return scene `index` of the data set `seed`: 2 to 7 objects, at least 70 % of each visible.

    Shapes and colours come from a few of each, chosen for the scene, so that objects share some of their attributes: to
    tell them apart, and to count them, a reader must combine words.
    """
    draws = Draws(seed, index, Stream.OBJECTS)
    width, height = draws.choice(CANVASES)
    shapes, colours = draws.sample(CLASS_NAMES, draws.between(2, 4)), draws.sample(COLOURS, draws.between(2, 4))
    wanted = [
        (draws.choice(shapes), draws.choice(colours), draws.choice(SIZES), draws.choice(TEXTURES))
        for _ in range(draws.between(2, MOST_OBJECTS))
    ]
    placed = tuple(_place(wanted, width, height, draws))
    seen = owners(placed, width, height)
    objects = tuple(_measured(item, seen == position) for position, item in enumerate(placed))
    return Scene(seed=seed, index=index, width=width, height=height, objects=objects)
