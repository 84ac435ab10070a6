"""The task LMDBs, read as ViLBERT's readers describe them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from vilbert.pipeline.errors import RefusedError, ShardError

from .conftest import Write, distribution, drop, make_samples, unpickle, without

CLASS_FIELDS = ("class_ids", "class_probs")


def read(path: Path) -> tuple[list[bytes], dict[bytes, Any]]:
    """Return the list under `keys` and the items by key."""
    with lmdb.open(str(path), readonly=True, lock=False) as environment, environment.begin() as transaction:
        values = dict(transaction.cursor())
    return unpickle(values.pop(b"keys")), {key: unpickle(value) for key, value in values.items()}


def decode(text: str, dtype: str, columns: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype).reshape(-1, columns)


def test_base64_texts(write: Write) -> None:
    samples = make_samples()
    keys, items = read(write("vilbert-lmdb", samples))
    assert keys == [b"17", b"9", b"300"]
    for sample in samples:
        item = items[sample.meta["image_id"].encode()]
        names = ["image_id", "image_w", "image_h", "num_boxes", "boxes", "features", "cls_prob"]
        assert list(item) == names
        assert all(isinstance(value, str) for value in item.values())
        size = [item["image_id"], int(item["image_w"]), int(item["image_h"]), int(item["num_boxes"])]
        assert size == [sample.meta["image_id"], sample.regions.width, sample.regions.height, len(sample.regions)]
        assert np.array_equal(decode(item["boxes"], "<f4", 4), sample.regions.boxes)
        assert np.array_equal(decode(item["features"], "<f4", 8), sample.regions.features)
        assert np.allclose(decode(item["cls_prob"], "<f4", 7), distribution(sample.regions), atol=1e-7)


def test_arrays(write: Write) -> None:
    samples = make_samples()
    keys, items = read(write("vilbert-lmdb-arrays", samples))
    assert keys == [b"17", b"9", b"300"]
    for sample in samples:
        item = items[sample.meta["image_id"].encode()]
        assert {name: value.dtype for name, value in item.items() if isinstance(value, np.ndarray)} == dict.fromkeys(
            ("boxes", "features", "cls_prob"), np.float32
        )
        assert [item[name] for name in ("image_h", "image_w", "num_boxes")] == [90, 120, len(sample.regions)]
        assert np.array_equal(item["boxes"], sample.regions.boxes)
        assert np.array_equal(item["features"], sample.regions.features)
        assert np.allclose(item["cls_prob"], distribution(sample.regions), atol=1e-7)


def test_volta(write: Write) -> None:
    samples = make_samples()
    keys, items = read(write("volta-lmdb", samples))
    assert keys == [b"17", b"9", b"300"]
    for sample in samples:
        item = items[sample.meta["image_id"].encode()]
        assert [int(item[name]) for name in ("img_w", "img_h", "num_boxes")] == [120, 90, len(sample.regions)]
        assert np.array_equal(decode(item["objects_id"], "<i8", 1)[:, 0] + 1, sample.regions.object_ids)
        assert np.array_equal(decode(item["features"], "<f4", 8), sample.regions.features)


@pytest.mark.parametrize("name", ["vilbert-lmdb", "vilbert-lmdb-arrays"])
def test_a_data_set_without_classes_has_no_class_probabilities(name: str, write: Write) -> None:
    samples = [drop(sample, *CLASS_FIELDS, "object_ids", "object_scores") for sample in make_samples()]
    _, items = read(write(name, samples, without(*CLASS_FIELDS, "object_ids", "object_scores")))
    assert all("cls_prob" not in item for item in items.values())


def test_volta_refuses_a_data_set_without_attributes_by_their_names(write: Write) -> None:
    with pytest.raises(RefusedError, match="needs attribute_ids, attribute_scores, which"):
        write("volta-lmdb", [], without("attribute_ids", "attribute_scores"))


def test_an_image_id_that_is_the_key_of_the_list_is_refused(write: Write) -> None:
    with pytest.raises(ShardError, match="two samples have the key 'keys'"):
        write("vilbert-lmdb", make_samples(("keys", "1", "2")))


def test_an_image_id_that_is_too_long_is_refused(write: Write) -> None:
    with pytest.raises(ShardError, match=r"image id 'é+' is 600 bytes long"):
        write("vilbert-lmdb", make_samples(("é" * 300, "1", "2")))
