"""Evaluate an extractor's regions on scenes with the COCO metrics (`pip install pycocotools`)."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vilbert.extractors.agreement import box_iou
from vilbert.extractors.extractor import Extractor
from vilbert.extractors.regions import Regions
from vilbert.pipeline.shapes.render import jpeg
from vilbert.pipeline.shapes.scene import CLASS_NAMES, Scene


@dataclass(frozen=True, kw_only=True)
class Measures:
    """Fractions from 0 to 1, of all objects of the scenes."""

    map50: float
    """Mean average precision over classes at an intersection over union of 0.5, with at most 100 regions per image."""
    map50_95: float
    """The same, averaged over thresholds from 0.5 to 0.95, as COCO reports it."""
    recall: float
    """Fraction of objects that a region of their class covers with an IoU of 0.5."""
    attributes: float
    """Fraction of those objects whose best such region has the correct attribute."""


def measure(extractor: Extractor, scenes: Sequence[Scene]) -> Measures:
    """Extract the regions of scenes and compare them with their objects.

    The extractor should keep many regions and save the regressed boxes: SelectionSettings(boxes="1-100",
    confidence=0.05, saved_box="regressed").
    """
    pictures = [np.asarray(Image.open(io.BytesIO(jpeg(scene)))) for scene in scenes]  # as the data set has them
    regions = [extractor.extract([picture], [None])[0] for picture in pictures]
    map50_95, map50 = _average_precision(scenes, regions)
    found = [
        (name, extractor.attribute_names[int(seen.attribute_ids[row])] if seen.attribute_ids is not None else "")
        for scene, seen in zip(scenes, regions, strict=True)
        for name, row in _matches(scene, seen)
    ]
    return Measures(
        map50=map50,
        map50_95=map50_95,
        recall=len(found) / sum(len(scene.objects) for scene in scenes),
        attributes=sum(name == seen for name, seen in found) / max(1, len(found)),
    )


def _matches(scene: Scene, regions: Regions) -> list[tuple[str, int]]:
    """Return the attribute of each object that a region of its class covers, and the most probable such region."""
    matches = []
    object_ids, object_scores = _objects(regions)
    for item in scene.objects:
        overlaps = box_iou(regions.boxes, np.array([item.box_xyxy]))[:, 0]
        covering = (overlaps >= 0.5) & (object_ids == item.class_id)
        if covering.any():
            best = int(np.where(covering, object_scores, -1).argmax())
            matches.append((f"{item.size} {item.colour} {item.texture}", best))
    return matches


def _objects(regions: Regions) -> tuple[NDArray[np.uint16], NDArray[np.float32]]:
    """Return [N] class ids and [N] scores of a detector that names every region."""
    if regions.object_ids is None or regions.object_scores is None:
        raise ValueError("the regions have no objects to measure")
    return regions.object_ids, regions.object_scores


def _average_precision(scenes: Sequence[Scene], regions: Sequence[Regions]) -> tuple[float, float]:
    """Return COCO's AP over thresholds 0.5 to 0.95, and at 0.5."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    objects = [(image, item) for image, scene in enumerate(scenes) for item in scene.objects]
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": image} for image in range(len(scenes))],
        "categories": [{"id": number, "name": name} for number, name in enumerate(CLASS_NAMES, 1)],
        "annotations": [
            # The evaluation takes an annotation numbered 0 for none.
            {"id": number, "image_id": image, "category_id": item.class_id, "bbox": _xywh(item.box_xyxy)}
            | {"area": item.area, "iscrowd": 0}
            for number, (image, item) in enumerate(objects, 1)
        ],
    }
    results = [
        {"image_id": image, "category_id": int(label), "bbox": _xywh(box), "score": float(score)}
        for image, seen in enumerate(regions)
        for box, label, score in zip(seen.boxes.tolist(), *_objects(seen), strict=True)
    ]
    if not results:  # which pycocotools does not take
        return 0.0, 0.0
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return float(evaluation.stats[0]), float(evaluation.stats[1])


def _xywh(box_xyxy: Sequence[float]) -> list[float]:
    left, top, right, bottom = box_xyxy
    return [left, top, right - left, bottom - top]
