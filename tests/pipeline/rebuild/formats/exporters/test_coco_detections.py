"""Detections in COCO's format of results."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from vilbert.pipeline.errors import RefusedError, ShardError

from .conftest import Write, make_samples, without


def test_pycocotools_reads_the_boxes(write: Write) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    samples = make_samples()
    truth = coco.COCO()
    truth.dataset = {"images": [{"id": 17}, {"id": 9}, {"id": 300}], "annotations": [], "categories": [{"id": 1}]}
    truth.createIndex()
    results = truth.loadRes(str(write("coco-detections", samples, name="detections.json")))
    for sample in samples:
        found = results.loadAnns(results.getAnnIds(imgIds=[int(sample.meta["image_id"])]))
        boxes = np.array([detection["bbox"] for detection in found])
        boxes[:, 2:] += boxes[:, :2]
        assert np.allclose(boxes, sample.regions.boxes, atol=1e-4)
        assert [detection["category_id"] for detection in found] == sample.regions.object_ids.tolist()
        assert np.allclose([detection["score"] for detection in found], sample.regions.object_scores)


def test_the_refined_boxes_of_the_objects_are_the_detections(write: Write) -> None:
    (sample,) = make_samples(("1",), (2,))
    refined = np.array([[1, 2, 4, 8], [0, 0, 3, 3]], np.float32)
    sample = replace(sample, regions=replace(sample.regions, object_boxes=refined))
    path = write("coco-detections", [sample], name="detections.json")
    assert [found["bbox"] for found in json.loads(path.read_text())] == [[1, 2, 3, 6], [0, 0, 3, 3]]


def test_an_image_without_regions_has_no_detections(write: Write) -> None:
    path = write("coco-detections", make_samples(("1",), (0,)), name="detections.json")
    assert json.loads(path.read_text()) == []


@pytest.mark.parametrize("image_id", ["007", "-1", "cat", "1.5", "9" * 19, "٣"])
def test_an_image_id_that_is_no_integer_is_refused(image_id: str, write: Write) -> None:
    with pytest.raises(ShardError, match="is not an integer"):
        write("coco-detections", make_samples(("1", image_id, "2")))


def test_it_refuses_a_data_set_without_objects(write: Write) -> None:
    with pytest.raises(RefusedError, match="needs object_ids, object_scores, which"):
        write("coco-detections", [], without("object_ids", "object_scores"))
