"""VinVL's TSVs, read as Oscar describes them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from vilbert.extractors.regions import Regions
from vilbert.pipeline.errors import RefusedError

from ....shards.conftest import CLASS_NAMES
from .conftest import Write, make_samples, without


def rows(path: Path) -> list[tuple[str, Any]]:
    """Return image ids and values of a table."""
    return [(key, json.loads(value)) for key, value in columns(path)]


def columns(path: Path) -> list[list[str]]:
    """Return the rows, each found by its byte in the index."""
    data = path.read_bytes()
    starts = [int(start) for start in path.with_suffix(".lineidx").read_text().split()]
    assert len(starts) == data.count(b"\n")
    return [data[start : data.index(b"\n", start)].decode().split("\t") for start in starts]


def check_features(text: str, count: int, regions: Regions) -> None:
    array = np.frombuffer(base64.b64decode(text), np.float32).reshape(count, 14)
    assert np.array_equal(array[:, :8], regions.features)
    assert np.allclose(array[:, 8:12] * [120, 90, 120, 90], regions.boxes, atol=1e-4)
    assert np.allclose(array[:, 12:] * [120, 90], regions.boxes[:, 2:] - regions.boxes[:, :2], atol=1e-4)


def check_labels(labels: list[dict[str, Any]], regions: Regions) -> None:
    assert [label["class"] for label in labels] == [CLASS_NAMES[number] for number in regions.object_ids]
    assert np.array_equal(np.float32([label["conf"] for label in labels]), regions.object_scores)
    assert np.array_equal(np.float32([label["rect"] for label in labels]), regions.boxes)


def test_features_labels_and_sizes(write: Write) -> None:
    samples = make_samples()
    folder = write("vinvl-tsv", samples, name="train")
    files = yaml.safe_load((folder / "dataset.yaml").read_text())
    tables = zip(*(rows(folder / files[name]) for name in ("feature", "label", "hw")), strict=True)
    for sample, ((key, features), (label_key, labels), (size_key, size)) in zip(samples, tables, strict=True):
        regions = sample.regions
        assert key == label_key == size_key == sample.meta["image_id"]
        assert size == [{"height": 90, "width": 120}]
        check_features(features["features"], features["num_boxes"], regions)
        check_labels(labels, regions)


def test_the_layout_of_pretraining(write: Write) -> None:
    samples = make_samples(("17", "9 a", "300"))
    folder = write("oscar-tsv", samples, name="train")
    features = columns(folder / "features.tsv")
    predictions = rows(folder / "predictions.tsv")
    assert json.loads((folder / "imageid2idx.json").read_text()) == {"17": 0, "9 a": 1, "300": 2}
    for sample, (key, count, packed), (other, found) in zip(samples, features, predictions, strict=True):
        assert key == other == sample.meta["image_id"]
        assert (found["image_h"], found["image_w"]) == (90, 120)
        check_features(packed, int(count), sample.regions)
        check_labels(found["objects"], sample.regions)


def test_captions(write: Write) -> None:
    folder = write("vinvl-tsv", make_samples(), name="train")
    captions = json.loads((folder / "caption.json").read_text())
    assert captions[2:4] == [
        {"image_id": "9", "caption": "a café 1"},
        {"image_id": "9", "caption": 'a "quoted"\ttab'},
    ]
    assert len(captions) == 6


@pytest.mark.parametrize("name", ["vinvl-tsv", "oscar-tsv"])
def test_it_refuses_a_data_set_without_objects(name: str, write: Write) -> None:
    with pytest.raises(RefusedError, match="needs object_ids, object_scores, which"):
        write(name, [], without("object_ids", "object_scores"))
