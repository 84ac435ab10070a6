"""Detections in the format of COCO's evaluation and detectron2: one JSON list of boxes, without features.

`bbox` is x, y, width, height in pixels, of the refined boxes if the data set has them; `category_id` is the class
id, counted from 1 (0 is the background). Source: https://cocodataset.org/#format-results; facebookresearch/detectron2
`evaluation/coco_evaluation.py`.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.rebuild.formats.exporters.staging import Rows
from vilbert.pipeline.rebuild.formats.exporters.stream import StreamExporter
from vilbert.pipeline.rebuild.source import SourceDescription
from vilbert.pipeline.shards.sample import Sample


def integer_id(sample: Sample) -> int:
    """Return the image id as an integer; ShardError if it is not one."""
    image_id: str = sample.meta["image_id"]
    if not re.fullmatch("0|[1-9][0-9]{0,17}", image_id):
        raise ShardError(
            f"sample {sample.key}: image id {image_id!r:.100} is not an integer, which COCO's readers expect; "
            "--image-id-format '{number}' uses the digits at the end of each id"
        )
    return int(image_id)


def write_detections(path: Path, _description: SourceDescription) -> Rows:
    """Write the list, one detection per line."""
    with path.open("x", encoding="utf-8") as file:
        separator = "["
        while (sample := (yield)) is not None:
            image_id = integer_id(sample)
            regions = sample.regions
            assert regions.object_ids is not None
            assert regions.object_scores is not None
            found = regions.boxes if regions.object_boxes is None else regions.object_boxes
            boxes = found.astype("f8")
            boxes[:, 2:] -= boxes[:, :2]
            for box, category, score in zip(
                boxes.tolist(), regions.object_ids.tolist(), regions.object_scores.tolist(), strict=True
            ):
                detection = {"image_id": image_id, "category_id": category, "bbox": box, "score": score}
                file.write(f"{separator}\n{json.dumps(detection)}")
                separator = ","
        file.write("[]\n" if separator == "[" else "\n]\n")


def exporter() -> StreamExporter:
    """Return the exporter."""
    return StreamExporter(write=write_detections, fields=("object_ids", "object_scores"))
