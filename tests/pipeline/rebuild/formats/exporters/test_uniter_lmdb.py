"""UNITER's LMDBs, read as `DetectFeatLmdb` describes them."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import lmdb
import numpy as np
import pytest

from vilbert.pipeline.errors import RefusedError, ShardError

from .conftest import Write, describe, distribution, make_samples, without
from .test_vilbert_pretraining_lmdb import decode


def decode_npz(value: bytes) -> Any:
    return dict(np.load(io.BytesIO(value), allow_pickle=False))


@pytest.mark.parametrize(
    ("name", "suffix", "decoder"), [("uniter-lmdb", "", decode), ("uniter-lmdb-compressed", "_compressed", decode_npz)]
)
def test_items(name: str, suffix: str, decoder: Any, write: Write) -> None:
    samples = make_samples(("coco_17", "coco_9", "coco_300"))
    folder = write(name, samples, name="coco_train")
    keys = ["coco_17.npz", "coco_9.npz", "coco_300.npz"]
    counts = json.loads((folder / "nbb_th0.2_max100_min10.json").read_text())
    assert counts == dict(zip(keys, (4, 1, 6), strict=True))
    database = folder / f"feat_th0.2_max100_min10{suffix}"
    with lmdb.open(str(database), readonly=True, lock=False) as environment, environment.begin() as transaction:
        values = dict(transaction.cursor())
    assert json.loads(values.pop(b"__keys__")) == keys
    for sample, key in zip(samples, keys, strict=True):
        item, regions = decoder(values[key.encode()]), sample.regions
        assert {array.dtype for array in item.values()} == {np.dtype(np.float16)}
        assert np.array_equal(item["features"], regions.features)
        assert np.array_equal(item["conf"], regions.object_scores.astype(np.float16))
        x1, y1, x2, y2 = (regions.boxes / [120, 90, 120, 90]).T
        assert np.allclose(item["norm_bb"], np.stack([x1, y1, x2, y2, x2 - x1, y2 - y1], axis=1), atol=1e-3)
        assert np.allclose(item["soft_labels"], distribution(regions), atol=1e-3)


def test_features_beyond_float16_are_refused(write: Write) -> None:
    samples = make_samples()
    features = samples[1].regions.features.astype(np.float32)
    features[0, 0] = 70000
    samples[1] = replace(samples[1], regions=replace(samples[1].regions, features=features))
    with pytest.raises(ShardError, match="sample 9: features exceed float16"):
        write("uniter-lmdb", samples)


def test_it_refuses_what_it_needs_by_its_names(write: Write) -> None:
    with pytest.raises(RefusedError, match="needs object_ids, object_scores, class_probs, class_names, which"):
        write(
            "uniter-lmdb",
            [],
            replace(without("object_ids", "object_scores", "class_ids", "class_probs"), class_names=()),
        )
    assert describe().class_names
