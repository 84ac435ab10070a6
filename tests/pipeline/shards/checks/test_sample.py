"""The deep check finds every value that no detector gives, and metadata that does not belong to the sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vilbert.pipeline.shards.checks.sample import not_finite
from vilbert.pipeline.shards.checks.shard import ENOUGH
from vilbert.pipeline.shards.sample import Sample

MakeDataset = Callable[..., Any]


def with_array(sample: Sample, name: str, change: Callable[[Any], None]) -> Sample:
    array = getattr(sample.regions, name).copy()
    change(array)
    return replace(sample, regions=replace(sample.regions, **{name: array}))


def put(index: Any, value: Any) -> Callable[[Any], None]:
    return lambda array: array.__setitem__(index, value)


@pytest.mark.parametrize(
    ("name", "change", "code"),
    [
        ("features", put((1, 2), np.nan), "not-finite"),
        ("features", put((0, 0), np.inf), "not-finite"),
        ("features", put((3, 7), -np.inf), "not-finite"),
        ("object_scores", put(0, np.nan), "not-finite"),
        ("class_probs", put((0, 0), np.inf), "not-finite"),
        ("boxes", put((2, 3), np.nan), "not-finite"),
        ("object_scores", put(1, 1.01), "probability"),
        ("object_scores", put(1, -0.01), "probability"),
        ("attribute_scores", put(1, 2), "probability"),
        ("class_probs", put(0, [0.1, 0.2, 0.05]), "probability"),
        ("class_probs", put(0, [0.9, 0.9, 0.9]), "probability"),
        ("boxes", put((0, 2), 121.0), "box"),
        ("boxes", put((0, 3), 90.5), "box"),
        ("boxes", put((0, 0), -1.0), "box"),
        ("boxes", put(1, [50, 10, 40, 20]), "box"),
        ("boxes", put(1, [10, 50, 20, 40]), "box"),
        ("object_ids", put(0, 0), "ids"),
        ("object_ids", put(0, 7), "ids"),
        ("class_ids", put((0, 0), 7), "ids"),
        ("class_ids", put(0, [1, 1, 2]), "ids"),
        ("attribute_ids", put(0, 3), "ids"),
    ],
)
def test_values_that_no_detector_gives(
    make_dataset: MakeDataset, name: str, change: Callable[[Any], None], code: str
) -> None:
    dataset = make_dataset(change=lambda row, sample: with_array(sample, name, change) if row == 4 else sample)
    assert dataset.codes() == set()
    found = dataset.findings(deep=True)
    assert code in {finding.code for finding in found}
    key = next(finding.where for finding in found if finding.code == code)
    assert key.startswith(f"{dataset.data_file().relative_to(dataset.directory)} key photo_004-")


@pytest.mark.parametrize(("width", "expected"), [(118, {"box"}), (120, set())])
def test_boxes_are_held_against_the_size_of_their_own_picture(
    make_dataset: MakeDataset, width: int, expected: set[str]
) -> None:
    def narrow(row: int, sample: Sample) -> Sample:
        boxes = np.clip(sample.regions.boxes, 0, 117)
        boxes[0, 2] = 118.6
        return replace(sample, regions=replace(sample.regions, boxes=boxes, width=width))

    assert make_dataset(change=narrow).codes(deep=True) == expected


@pytest.mark.parametrize(
    ("meta", "expected"),
    [
        ({"split": "holdout"}, {"manifest-differs"}),
        ({"captions": "one string"}, {"meta"}),
        ({"captions": ["another"]}, {"manifest-differs"}),
        ({"uri": "elsewhere.png"}, {"manifest-differs"}),
        ({"image_id": "another"}, {"key"}),
    ],
)
def test_metadata_that_is_wrong(make_dataset: MakeDataset, meta: dict[str, Any], expected: set[str]) -> None:
    dataset = make_dataset(
        change=lambda row, sample: replace(sample, meta={**sample.meta, **meta}) if row == 4 else sample
    )
    assert expected <= dataset.codes(deep=True)


def test_fields_that_dataset_json_does_not_know(make_dataset: MakeDataset) -> None:
    def without_attributes(row: int, sample: Sample) -> Sample:
        return replace(sample, regions=replace(sample.regions, attribute_ids=None, attribute_scores=None))

    assert make_dataset(change=without_attributes).codes(deep=True) == {"fields"}


def test_a_shard_full_of_errors_is_cut_short(make_dataset: MakeDataset) -> None:
    dataset = make_dataset(
        rows=60,
        shard_size=60,
        failed={},
        change=lambda row, sample: with_array(sample, "features", put((0, 0), np.nan)),
    )
    found = dataset.findings(deep=True)
    assert len(found) == ENOUGH + 1
    assert found[-1].code == "more"


@given(st.lists(st.floats(width=16), max_size=40), st.sampled_from([np.float16, np.float32]))
def test_not_finite_counts_as_numpy_does(values: list[float], dtype: Any) -> None:
    array = np.array(values, dtype)
    assert not_finite(array) == np.count_nonzero(~np.isfinite(array))
