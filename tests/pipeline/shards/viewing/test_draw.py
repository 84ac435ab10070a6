"""Boxes and labels end up where they belong, and can be read."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.shards.viewing.draw import SMALL_SIDE, colour, draw_regions, ink, overlap, place_label

GREY = 90
SIDES = st.tuples(*[st.floats(0, 400)] * 4)


def luminance(rgb: tuple[int, int, int]) -> float:
    """Return the relative luminance of WCAG 2.1."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in np.array(rgb) / 255]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_a_box_is_drawn_on_its_edges_and_nowhere_else() -> None:
    pixels = np.full((700, 900, 3), GREY, np.uint8)
    image = np.asarray(draw_regions(pixels, np.array([[100, 200, 500, 600]], np.float32), [""]))
    assert image.shape == pixels.shape
    for y, x in ((200, 300), (600, 300), (400, 100), (400, 500)):
        assert tuple(image[y, x]) == colour(0)
    changed = np.argwhere((image != GREY).any(axis=2))
    assert changed.min(axis=0)[1] >= 98
    assert changed.max(axis=0).tolist() == [600, 500]
    assert (image[210:590, 110:490] == GREY).all()
    assert (pixels == GREY).all()


def test_a_small_picture_is_enlarged_with_its_boxes() -> None:
    pixels = np.full((90, 120, 3), GREY, np.uint8)
    image = draw_regions(pixels, np.array([[10, 20, 50, 60]], np.float32), ["dog 0.75"])
    assert image.size == (720, 540)
    assert max(image.size) >= SMALL_SIDE
    assert image.getpixel((60, 200)) == colour(0)
    assert image.getpixel((300, 360)) == colour(0)


def test_the_best_box_lies_over_the_others() -> None:
    boxes = np.array([[100, 100, 500, 500], [100, 100, 500, 500]], np.float32)
    image = draw_regions(np.full((700, 900, 3), GREY, np.uint8), boxes, ["", ""])
    assert image.getpixel((300, 500)) == colour(0)


def test_no_label_covers_another_and_a_crowd_keeps_its_boxes() -> None:
    boxes = (
        np.tile(np.array([[300, 300, 340, 330]], np.float32), (40, 1)) + np.arange(40, dtype=np.float32)[:, None] / 10
    )
    image = draw_regions(np.full((640, 640, 3), GREY, np.uint8), boxes, [f"thing {i}" for i in range(40)])
    assert image.getpixel((320, 300)) == colour(0)


@given(st.lists(st.tuples(SIDES, st.integers(5, 90)), max_size=12))
def test_labels_stay_on_the_canvas_and_apart(labels: list[tuple[tuple[float, float, float, float], int]]) -> None:
    taken: list[tuple[float, float, float, float]] = []
    for (x1, y1, x2, y2), width in labels:
        box = (min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2))
        place = place_label(box, (width, 14), 2, taken, (400, 400))
        if place is None:
            continue
        assert min(place) >= 0
        assert max(place) <= 400
        assert all(overlap(place, other) == 0 for other in taken)
        taken.append(place)
    assert taken or not labels


def test_neighbouring_colours_differ_and_take_readable_ink() -> None:
    colours = [colour(index) for index in range(36)]
    assert len(set(colours)) == 36
    for first, second in pairwise(colours):
        assert sum(abs(a - b) for a, b in zip(first, second, strict=True)) > 100
    for background in colours:
        light, dark = sorted((luminance(background), luminance(ink(background))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 3.0, background  # WCAG 2.1 for large text


def test_as_many_labels_as_boxes_are_asked_for() -> None:
    with pytest.raises(ValueError, match=r"shorter|longer"):
        draw_regions(np.zeros((64, 64, 3), np.uint8), np.zeros((2, 4), np.float32), ["one"])
