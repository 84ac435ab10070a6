"""Given boxes: four finite numbers, xyxy in pixels of the stored image, with an area."""

from __future__ import annotations

import math
from collections.abc import Sequence

from manifests.record import Box, ImageRecord
from manifests.report import Report


def parse_boxes(values: object, where: str, report: Report) -> tuple[Box, ...]:
    """Return the boxes in a list of [x1, y1, x2, y2]; count and leave away what is none."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        report.count("bad-box", f"{where}: {values!r:.80}")
        return ()
    boxes = []
    for value in values:
        if box := parse_box(value):
            boxes.append(box)
        else:
            report.count("bad-box", f"{where}: {value!r:.80}")
    return tuple(boxes)


def parse_box(value: object) -> Box | None:
    """Return a box, or None where it is not four finite numbers with x1 < x2 and y1 < y2."""
    if not isinstance(value, list | tuple) or len(value) != 4:
        return None
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in value):
        return None
    try:
        x1, y1, x2, y2 = map(float, value)
    except OverflowError:
        return None
    return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 and all(map(math.isfinite, (x1, y1, x2, y2))) else None


def fit_boxes(record: ImageRecord, report: Report) -> ImageRecord:
    """Return the record with boxes clipped to its image where they lie outside by no more than a pixel.

    Published annotations are rounded so. What lies further out stays as it is and is counted: xywh read as xyxy, or the
    boxes of another size of the image. Where the size is not known, nothing is done.
    """
    width, height = record.width, record.height
    if record.boxes_xyxy is None or width is None or height is None:
        return record
    boxes = []
    for box in record.boxes_xyxy:
        x1, y1, x2, y2 = box
        if x1 >= 0 and y1 >= 0 and x2 <= width and y2 <= height:
            boxes.append(box)
            continue
        where = f"{record.image_id}: {list(box)} in {width}x{height}"
        clipped = parse_box([max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))])
        if x1 < -1 or y1 < -1 or x2 > width + 1 or y2 > height + 1:
            report.count("box-outside", where)
            boxes.append(box)
        elif clipped is None:
            report.count("bad-box", where)
        else:
            boxes.append(clipped)
    return record._replace(boxes_xyxy=tuple(boxes) or None)
