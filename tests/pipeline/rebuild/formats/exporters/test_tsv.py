"""The TSVs, read as Bottom-Up Attention and LXMERT describe them."""

from __future__ import annotations

import base64
import csv
from pathlib import Path

import numpy as np
import pytest

from vilbert.pipeline.errors import RefusedError, ShardError

from .conftest import Write, distribution, drop, make_samples, without


def read(path: Path) -> list[list[str]]:
    assert path.read_bytes().count(b"\r\n") == 3
    csv.field_size_limit(1 << 24)
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.reader(file, delimiter="\t"))


def decode(text: str, dtype: str, columns: int) -> np.ndarray:
    return np.frombuffer(base64.b64decode(text), dtype).reshape(-1, columns)


def test_bottom_up(write: Write) -> None:
    samples = make_samples()
    rows = read(write("bottom-up-tsv", samples))
    for sample, (image_id, width, height, number, boxes, features, probabilities) in zip(samples, rows, strict=True):
        assert [image_id, width, height, number] == [sample.meta["image_id"], "120", "90", str(len(sample.regions))]
        assert np.array_equal(decode(boxes, "<f4", 4), sample.regions.boxes)
        assert np.array_equal(decode(features, "<f4", 8), sample.regions.features)
        assert np.allclose(decode(probabilities, "<f4", 7), distribution(sample.regions), atol=1e-7)


def test_bottom_up_without_classes_has_six_columns(write: Write) -> None:
    samples = [drop(sample, "class_ids", "class_probs") for sample in make_samples()]
    assert {len(row) for row in read(write("bottom-up-tsv", samples, without("class_ids", "class_probs")))} == {6}


def test_lxmert(write: Write) -> None:
    samples = make_samples()
    rows = read(write("lxmert-tsv", samples))
    for sample, row in zip(samples, rows, strict=True):
        image_id, height, width, objects, confidences, attributes, attribute_confidences, number, boxes, features = row
        regions = sample.regions
        assert [image_id, height, width, number] == [sample.meta["image_id"], "90", "120", str(len(regions))]
        assert np.array_equal(decode(objects, "<i8", 1)[:, 0] + 1, regions.object_ids)
        assert np.array_equal(decode(confidences, "<f4", 1)[:, 0], regions.object_scores)
        assert np.array_equal(decode(attributes, "<i8", 1)[:, 0], regions.attribute_ids)
        assert np.array_equal(decode(attribute_confidences, "<f4", 1)[:, 0], regions.attribute_scores)
        assert np.array_equal(decode(boxes, "<f4", 4), regions.boxes)
        assert np.array_equal(decode(features, "<f4", 8), regions.features)


def test_lxmert_refuses_what_it_needs_by_its_names(write: Write) -> None:
    with pytest.raises(RefusedError, match="needs object_ids, object_scores, which"):
        write("lxmert-tsv", [], without("object_ids", "object_scores"))


def test_an_object_that_is_the_background_is_refused(write: Write) -> None:
    samples = make_samples()
    samples[1].regions.object_ids[0] = 0
    with pytest.raises(ShardError, match="sample 9: object_ids holds 0, the background"):
        write("lxmert-tsv", samples)


@pytest.mark.parametrize("image_id", ["a\tb", "a\nb", 'a"b', " a", "a\r", ""])
@pytest.mark.parametrize("name", ["bottom-up-tsv", "vinvl-tsv", "oscar-tsv"])
def test_an_image_id_that_breaks_rows_is_refused(name: str, image_id: str, write: Write) -> None:
    with pytest.raises(ShardError, match="which a TSV cannot hold"):
        write(name, make_samples((image_id, "1", "2")))
