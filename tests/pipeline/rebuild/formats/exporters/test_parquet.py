"""Parquet, read with pyarrow."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from vilbert.pipeline.rebuild.formats.exporters import parquet

from ....shards.conftest import ATTRIBUTE_NAMES, CLASS_NAMES
from .conftest import Write, drop, make_samples, without


def test_every_array_comes_back_with_its_dtype(write: Write) -> None:
    samples = make_samples(boxes=(4, 0, 6))
    table = pq.read_table(write("parquet", samples, name="features.parquet"))
    for row, sample in zip(table.to_pylist(), samples, strict=True):
        for name, array in sample.regions.arrays().items():
            assert np.array_equal(np.array(row[name], array.dtype).reshape(array.shape), array), name
        assert [row[name] for name in ("width", "height", "num_boxes")] == [120, 90, len(sample.regions)]
    assert str(table.schema.field("features").type) == "list<element: fixed_size_list<element: halffloat>[8]>"
    assert str(table.schema.field("class_ids").type) == "list<element: fixed_size_list<element: uint16>[3]>"


def test_metadata_comes_back(write: Write) -> None:
    samples = make_samples()
    samples[1] = replace(samples[1], meta={"image_id": "9", "mode": "L", "nested": {"a": [1]}, "uri": 7})
    table = pq.read_table(write("parquet", samples, name="features.parquet"))
    rows = table.to_pylist()
    for name in ("image_id", "captions", "split", "uri"):
        assert rows[0][name] == samples[0].meta[name]
    assert rows[1]["captions"] == []
    assert rows[1]["split"] is None
    assert json.loads(rows[1]["metadata"]) == {"mode": "L", "nested": {"a": [1]}, "uri": 7}
    assert json.loads(table.schema.metadata[b"class_names"]) == list(CLASS_NAMES)
    assert json.loads(table.schema.metadata[b"attribute_names"]) == list(ATTRIBUTE_NAMES)


def test_groups_are_bounded_in_bytes(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_GROUP_BYTES", 100)
    file = pq.ParquetFile(write("parquet", make_samples(), name="features.parquet"))
    assert file.metadata.num_row_groups > 1
    assert file.read().column("image_id").to_pylist() == ["17", "9", "300"]


def test_fields_that_are_absent_have_no_column_and_float32_stays(write: Write) -> None:
    absent = ("object_ids", "object_scores", "class_ids", "class_probs", "attribute_ids", "attribute_scores")
    samples = [drop(sample, *absent) for sample in make_samples()]
    samples = [
        replace(sample, regions=replace(sample.regions, features=sample.regions.features.astype(np.float32) / 3))
        for sample in samples
    ]
    description = without(*absent)
    description.fields["features"]["dtype"] = "float32"
    table = pq.read_table(write("parquet", samples, description, name="features.parquet"))
    assert not set(absent) & set(table.column_names)
    assert np.array_equal(np.float32(table.column("features")[0].as_py()), samples[0].regions.features)
