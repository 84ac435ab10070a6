"""The pre-training LMDB, read as tensorpack and the reference's loader describe it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import lmdb
import msgpack
import numpy as np
import pytest

from vilbert.pipeline.errors import RefusedError, ShardError

from .conftest import Write, describe, distribution, make_samples, without


def decode(value: bytes) -> Any:
    def array(document: dict[Any, Any]) -> Any:
        if not document.get(b"nd"):
            return document
        return np.frombuffer(document[b"data"], document[b"type"]).reshape(document[b"shape"])

    return msgpack.unpackb(value, raw=False, object_hook=array)


def read(path: Path) -> list[Any]:
    """Return the records in the order of their keys."""
    with lmdb.open(str(path), subdir=False, readonly=True, lock=False) as environment, environment.begin() as reading:
        values = dict(reading.cursor())
    keys = decode(values.pop(b"__keys__"))
    assert keys == [f"{number:08}".encode() for number in range(len(values))]
    return [decode(values[key]) for key in keys]


def test_records_and_captions(write: Write) -> None:
    samples = make_samples()
    folder = write("vilbert-pretraining-lmdb", samples, name="pretraining")
    assert {path.name for path in folder.iterdir()} == {"training_feat_all.lmdb", "caption_train.json"}
    records = read(folder / "training_feat_all.lmdb")
    assert len(records) == 6
    for number, record in enumerate(records):
        sample = samples[number // 2]
        regions = sample.regions
        features, probabilities, boxes, *texts = record
        caption = sample.meta["captions"][number % 2]
        assert texts == [str(len(regions)), "90", "120", sample.meta["image_id"], caption]
        assert {features.dtype, probabilities.dtype, boxes.dtype} == {np.dtype("<f4")}
        assert np.array_equal(features, regions.features)
        assert np.array_equal(boxes, regions.boxes)
        assert np.allclose(probabilities, distribution(regions), atol=1e-7)
    captions = json.loads((folder / "caption_train.json").read_text())
    assert list(captions.values()) == [record[-1] for record in records]  # the loader draws from them by record number
    assert [captions[image_id] for image_id in ("17", "9", "300")] == ["a café 0", "a café 1", "a café 2"]


def test_the_files_of_a_validation_split_have_the_names_that_the_loader_looks_for(write: Write) -> None:
    folder = write("vilbert-pretraining-lmdb", make_samples()[1:2], name="pretraining")
    assert {path.name for path in folder.iterdir()} == {"validation_feat_all.lmdb", "caption_val.json"}
    assert len(read(folder / "validation_feat_all.lmdb")) == 2


@pytest.mark.parametrize("missing", ["class_probs", "class_names"])
def test_it_refuses_what_it_needs_by_its_name(missing: str, write: Write) -> None:
    description = describe(class_names=()) if missing == "class_names" else without("class_ids", "class_probs")
    with pytest.raises(RefusedError, match=f"needs {missing}, which"):
        write("vilbert-pretraining-lmdb", [], description)


def test_an_image_without_a_caption_is_refused_by_its_name(write: Write) -> None:
    samples = make_samples()
    samples[1] = replace(samples[1], meta={"image_id": "9"})
    with pytest.raises(ShardError, match="sample 9 has no caption"):
        write("vilbert-pretraining-lmdb", samples)


def test_a_class_beyond_the_names_is_refused(write: Write) -> None:
    with pytest.raises(ShardError, match="sample 17: class id"):
        write("vilbert-pretraining-lmdb", make_samples(), describe(class_names=("background", "sky", "tree")))
