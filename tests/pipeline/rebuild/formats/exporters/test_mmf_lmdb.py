"""MMF's LMDB, read as its feature reader describes it."""

from __future__ import annotations

import numpy as np
import pytest

from vilbert.pipeline.errors import RefusedError

from .conftest import Write, distribution, drop, make_samples, without
from .test_vilbert_lmdb import read


def test_items(write: Write) -> None:
    samples = make_samples(("17", "train/9", "COCO_300"))
    keys, items = read(write("mmf-lmdb", samples))
    assert keys == [b"17", b"train/9", b"COCO_300"]
    for sample, key in zip(samples, keys, strict=True):
        item, regions = items[key], sample.regions
        assert item["feature_path"] == key.decode()
        assert [item[name] for name in ("image_height", "image_width", "num_boxes")] == [90, 120, len(regions)]
        assert np.array_equal(item["features"], regions.features)
        assert item["features"].dtype == np.float32
        assert np.array_equal(item["bbox"], regions.boxes)
        assert np.array_equal(item["objects"], regions.object_ids)
        assert np.allclose(item["cls_prob"], distribution(regions), atol=1e-7)


def test_class_probabilities_that_are_absent_are_none(write: Write) -> None:
    samples = [drop(sample, "class_ids", "class_probs") for sample in make_samples()]
    _, items = read(write("mmf-lmdb", samples, without("class_ids", "class_probs")))
    assert {item["cls_prob"] for item in items.values()} == {None}


def test_a_name_that_mmf_would_not_take_for_an_lmdb_is_refused(write: Write) -> None:
    with pytest.raises(RefusedError, match=r"ends in \.lmdb"):
        write("mmf-lmdb", make_samples(), name="features")


def test_it_refuses_a_data_set_without_objects(write: Write) -> None:
    with pytest.raises(RefusedError, match="needs object_ids, which"):
        write("mmf-lmdb", [], without("object_ids", "object_scores"))
