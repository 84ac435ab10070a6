"""What every import does with the arrays of an image."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.rebuild.formats.importers.published_image import (
    Background,
    PublishedImage,
    RowError,
    background_first,
    foreground_ids,
    most_probable,
    to_sample,
)

IMAGE = PublishedImage(
    image_id="a",
    features=np.ones((2, 3), np.float32),
    boxes=np.array([[0, 0, 10, 10], [5, 5, 20, 30]], np.float32),
    width=20,
    height=30,
)


def sample_of(**changes: Any) -> Any:
    return to_sample(dataclasses.replace(IMAGE, **changes), top_classes=2, classes=5, attributes=3)


@given(st.data())
def test_the_most_probable_classes_are_those_of_a_stable_sort(data: st.DataObject) -> None:
    values = st.lists(st.sampled_from([0.0, 0.1, 0.2, 0.25]), min_size=7, max_size=7)
    probs = np.array(data.draw(st.lists(values, min_size=1, max_size=4)), np.float32)
    for count in range(1, 9):
        expected = np.argsort(-probs, axis=1, kind="stable")[:, :count]
        np.testing.assert_array_equal(most_probable(probs, count), expected)


@pytest.mark.parametrize(("background", "ids"), [("none", [1, 4]), ("first", [0, 3]), ("last", [1, 4])])
def test_ids_of_each_convention(background: Background, ids: list[int]) -> None:
    assert foreground_ids(np.array([0, 3]), background).tolist() == ids


def test_the_column_of_the_background_comes_first() -> None:
    probs = np.array([[0.5, 0.3, 0.2]], np.float32)
    assert background_first(probs, "first").tolist() == probs.tolist()
    np.testing.assert_allclose(background_first(probs, "last"), [[0.2, 0.5, 0.3]])
    np.testing.assert_allclose(background_first(probs[:, 1:], "none"), [[0.5, 0.3, 0.2]])


@pytest.mark.parametrize(
    ("box", "clipped"),
    [
        ([-0.6, 0, 20.9, 30.4], [0, 0, 20, 30]),
        ([-1.6, 0, 20, 30], None),
        ([0, 0, 20, 31.6], None),
        ([9, 0, 8, 30], None),
        ([0, np.nan, 8, 30], None),
        ([0, 0, np.inf, 30], None),
    ],
)
def test_boxes_are_clipped_by_a_pixel_and_refused_beyond(box: list[float], clipped: list[float] | None) -> None:
    boxes = np.array([[0, 0, 1, 1], box], np.float64)
    if clipped is not None:
        np.testing.assert_allclose(sample_of(boxes=boxes).regions.boxes[1], clipped)
        return
    with pytest.raises(RowError) as raised:
        sample_of(boxes=boxes)
    assert raised.value.reason == "bad_boxes"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"object_ids": np.array([1, 5]), "object_scores": np.ones(2, np.float32)}, "bad_classes"),
        ({"object_ids": np.array([1, 0]), "object_scores": np.ones(2, np.float32)}, "background_object"),
        ({"object_ids": np.array([1, 2]), "object_scores": np.array([0.5, 1.5], np.float32)}, "bad_numbers"),
        ({"object_ids": np.array([1.0, 2.0]), "object_scores": np.ones(2, np.float32)}, "broken_row"),
        ({"attribute_ids": np.array([0, 3]), "attribute_scores": np.ones(2, np.float32)}, "bad_classes"),
        ({"class_probs": np.full((2, 5), 0.5, np.float32)}, "bad_numbers"),
        ({"class_probs": np.full((3, 5), 0.1, np.float32)}, "broken_row"),
        ({"class_probs": np.array([[np.nan] * 5] * 2, np.float32)}, "bad_numbers"),
        ({"features": np.full((2, 3), 1e39)}, "bad_numbers"),
        ({"features": np.ones((2, 3), np.int64)}, "broken_row"),
        ({"features": np.ones((0, 3), np.float32), "boxes": np.ones((0, 4), np.float32)}, "no_regions"),
        ({"width": None}, "no_image_size"),
        ({"height": 0}, "no_image_size"),
    ],
)
def test_rows_that_no_data_set_may_hold(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(RowError) as raised:
        sample_of(**changes)
    assert (raised.value.reason, raised.value.image_id) == (reason, "a")


def test_objects_come_from_the_probabilities_where_the_file_names_none() -> None:
    probs = np.array([[0.6, 0.1, 0.3, 0, 0], [0.2, 0.2, 0.2, 0.2, 0.2]], np.float32)
    regions = sample_of(class_probs=probs).regions
    assert regions.object_ids.tolist() == [2, 1]
    np.testing.assert_allclose(regions.object_scores, [0.3, 0.2])
    assert regions.class_ids.tolist() == [[0, 2], [0, 1]]
