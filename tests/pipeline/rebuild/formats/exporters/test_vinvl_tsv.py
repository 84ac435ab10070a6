"""VinVL's TSVs, read as Oscar describes them."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from vilbert.pipeline.errors import RefusedError

from ....shards.conftest import CLASS_NAMES
from .conftest import Write, make_samples, without


def rows(path: Path) -> list[tuple[str, Any]]:
    """Return the rows, each found by its byte in the index."""
    data = path.read_bytes()
    found = []
    for start in path.with_suffix(".lineidx").read_text().split():
        key, value = data[int(start) : data.index(b"\n", int(start))].decode().split("\t")
        found.append((key, json.loads(value)))
    assert len(found) == data.count(b"\n")
    return found


def test_features_labels_and_sizes(write: Write) -> None:
    samples = make_samples()
    folder = write("vinvl-tsv", samples, name="train")
    files = yaml.safe_load((folder / "dataset.yaml").read_text())
    tables = zip(*(rows(folder / files[name]) for name in ("feature", "label", "hw")), strict=True)
    for sample, ((key, features), (label_key, labels), (size_key, size)) in zip(samples, tables, strict=True):
        regions = sample.regions
        assert key == label_key == size_key == sample.meta["image_id"]
        assert size == [{"height": 90, "width": 120}]
        array = np.frombuffer(base64.b64decode(features["features"]), np.float32).reshape(features["num_boxes"], 14)
        assert np.array_equal(array[:, :8], regions.features)
        assert np.allclose(array[:, 8:12] * [120, 90, 120, 90], regions.boxes, atol=1e-4)
        assert np.allclose(array[:, 12:] * [120, 90], regions.boxes[:, 2:] - regions.boxes[:, :2], atol=1e-4)
        assert [label["class"] for label in labels] == [CLASS_NAMES[number] for number in regions.object_ids]
        assert np.array_equal(np.float32([label["conf"] for label in labels]), regions.object_scores)
        assert np.array_equal(np.float32([label["rect"] for label in labels]), regions.boxes)


def test_captions(write: Write) -> None:
    folder = write("vinvl-tsv", make_samples(), name="train")
    captions = json.loads((folder / "caption.json").read_text())
    assert captions[2:4] == [
        {"image_id": "9", "caption": "a café 1"},
        {"image_id": "9", "caption": 'a "quoted"\ttab'},
    ]
    assert len(captions) == 6


def test_it_refuses_a_data_set_without_objects(write: Write) -> None:
    with pytest.raises(RefusedError, match="needs object_ids, object_scores, which"):
        write("vinvl-tsv", [], without("object_ids", "object_scores"))
