import hashlib
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from vilbert.pipeline.shapes.outline import stamp
from vilbert.pipeline.shapes.render import paint, render
from vilbert.pipeline.shapes.scene import (
    CANVASES,
    CLASS_NAMES,
    COLOURS,
    SIZES,
    TEXTURES,
    Scene,
    SceneObject,
    make_scene,
    split_of,
)

SCENES_DIGEST = "064d4f95b03fa849267e9337de95c9d682d00d1bcc8aac9e8751ff769e2436d3"
PIXELS_DIGEST = "ac9c5a632bc377770afc57be03f9fbd91632de01bf6aa0113e21626f145f2467"


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return [make_scene(11, index) for index in range(200)]


def whole_masks(scene: Scene) -> NDArray[np.bool_]:
    """Return [objects, height, width]: each object as if it were alone, placed pixel by pixel."""
    masks = np.zeros((len(scene.objects), scene.height, scene.width), dtype=bool)
    for mask, item in zip(masks, scene.objects, strict=True):
        rows, columns = np.nonzero(stamp(item.shape, item.radius, item.angle).fill >= 128)
        mask[rows + item.y - item.radius - 1, columns + item.x - item.radius - 1] = True
    return masks


def test_boxes_and_areas_are_those_of_the_visible_pixels(scenes: list[Scene]) -> None:
    for scene in scenes:
        masks = whole_masks(scene)
        for position, item in enumerate(scene.objects):
            visible = masks[position] & ~masks[position + 1 :].any(axis=0)
            rows, columns = np.nonzero(visible)
            assert item.box_xyxy == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            assert item.area == visible.sum()
            assert item.area >= 0.7 * masks[position].sum()


def test_a_box_is_where_the_picture_changes(scenes: list[Scene]) -> None:
    """The pixels that an object alters lie in its box, but for the soft ends of sharp tips, at most two pixels."""
    for scene in scenes[:60]:
        alone = replace(scene, objects=scene.objects[:1])
        changed = (paint(alone) != paint(replace(scene, objects=()))).any(axis=2)
        rows, columns = np.nonzero(changed)
        mask = whole_masks(alone)[0]
        box = [np.nonzero(mask.any(axis=0))[0][[0, -1]], np.nonzero(mask.any(axis=1))[0][[0, -1]]]
        for (low, high), pixels in zip(box, (columns, rows), strict=True):
            assert low - 2 <= pixels.min() <= low
            assert high <= pixels.max() <= high + 2


def test_scenes_stay_within_what_is_promised(scenes: list[Scene]) -> None:
    for scene in scenes:
        assert (scene.width, scene.height) in CANVASES
        assert 2 <= len(scene.objects) <= 7
        for item in scene.objects:
            x1, y1, x2, y2 = item.box_xyxy
            assert 0 <= x1 < x2 <= scene.width
            assert 0 <= y1 < y2 <= scene.height
            assert CLASS_NAMES[item.class_id - 1] == item.shape


@pytest.mark.parametrize(
    ("attribute", "values"), [("shape", CLASS_NAMES), ("colour", COLOURS), ("size", SIZES), ("texture", TEXTURES)]
)
def test_every_value_is_about_as_frequent(scenes: list[Scene], attribute: str, values: tuple[str, ...]) -> None:
    counts = Counter(getattr(item, attribute) for scene in scenes for item in scene.objects)
    mean = sum(counts.values()) / len(values)
    assert set(counts) == set(values)
    assert all(0.6 * mean < count < 1.4 * mean for count in counts.values())


def test_objects_share_attributes_so_that_one_word_often_is_not_enough(scenes: list[Scene]) -> None:
    shared = [
        any(other is not item and other.shape == item.shape for other in scene.objects)
        for scene in scenes
        for item in scene.objects
    ]
    assert 0.4 < np.mean(shared) < 0.9


def test_a_shape_has_its_own_outline_at_every_size() -> None:
    """No two shapes agree on nearly all pixels, at the smallest size and any tilt."""
    for radius in (12, 30):
        masks = {name: [stamp(name, radius, angle).solid for angle in (-12, 0, 12)] for name in CLASS_NAMES}
        for first in CLASS_NAMES:
            for second in CLASS_NAMES:
                if first < second:
                    overlap = max((a & b).sum() / (a | b).sum() for a in masks[first] for b in masks[second])
                    assert overlap < 0.9, (first, second, radius)


def test_a_circle_covers_the_area_of_a_circle() -> None:
    fill = stamp("circle", 20, 0).fill
    assert fill.sum() / 256 == pytest.approx(np.pi * 20**2, rel=0.005)
    assert stamp("ring", 20, 0).fill.sum() / 256 == pytest.approx(np.pi * (20**2 - 10**2), rel=0.005)
    assert stamp("square", 20, 7).fill.sum() / 256 == pytest.approx((2 * 0.84 * 20) ** 2, rel=0.01)


def test_an_unknown_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="no shape 'blob'"):
        stamp("blob", 10, 0)


def test_a_scene_is_the_same_whatever_was_made_before() -> None:
    alone = make_scene(5, 42)
    for index in range(10):
        make_scene(5, index)
    assert make_scene(5, 42) == alone
    assert make_scene(6, 42).objects != alone.objects
    assert (paint(alone) == paint(make_scene(5, 42))).all()


def test_golden() -> None:
    """Scenes and pixels are fixed: a change here is a change of the data set, and goes into the CHANGELOG."""
    made = [make_scene(0, index) for index in range(30)]
    text = json.dumps([scene.to_json() for scene in made])
    assert hashlib.sha256(text.encode()).hexdigest() == SCENES_DIGEST
    pixels = hashlib.sha256(b"".join(paint(scene).tobytes() for scene in made[:10])).hexdigest()
    assert pixels == PIXELS_DIGEST


def test_textures_are_seen() -> None:
    """A dark pattern covers part of the core of a textured object, and none of a solid one."""
    item = SceneObject(shape="square", colour="yellow", size="large", texture="solid", x=50, y=50, radius=28, angle=0)
    dark = {}
    for texture in TEXTURES:
        scene = Scene(seed=0, index=0, width=100, height=100, objects=(replace(item, texture=texture),))
        dark[texture] = (paint(scene)[35:66, 35:66, 0] < 150).mean()
    assert dark["solid"] == 0
    assert all(0.25 < dark[texture] < 0.6 for texture in TEXTURES if texture != "solid")


def test_pictures_are_rgb_of_the_scene_size() -> None:
    scene = make_scene(0, 0)
    image = render(scene)
    assert image.mode == "RGB"
    assert image.size == (scene.width, scene.height)


def test_of_every_ten_scenes_one_validates_and_one_tests() -> None:
    assert Counter(split_of(index) for index in range(1000)) == {"train": 800, "val": 100, "test": 100}
    assert {split_of(index) for index in range(10)} == {"train", "val", "test"}
