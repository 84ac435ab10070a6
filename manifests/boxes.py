"""Given boxes: four finite numbers with a positive area. Sources use several formats, manifests xyxy in pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

from vilbert.manifests.record import Box, ImageRecord
from vilbert.manifests.report import Report

BoxFormat = Literal["xyxy", "xywh", "cxcywh", "xyxy-normalized", "xywh-normalized", "cxcywh-normalized"]
"""Two corners, a corner and the size, or the centre and the size; in pixels or normalized by the image size."""


def parse_boxes(values: object, where: str, report: Report, form: BoxFormat = "xyxy") -> tuple[Box, ...]:
    """Return the boxes of a list as corners, in their original unit. Count invalid boxes."""
    if not isinstance(values, Sequence) or isinstance(values, str):
        report.count("bad-box", f"{where}: {values!r:.80}")
        return ()
    boxes = []
    for value in values:
        if box := parse_box(value, form):
            boxes.append(box)
        else:
            report.count("bad-box", f"{where}: {value!r:.80}")
    return tuple(boxes)


def parse_box(value: object, form: BoxFormat = "xyxy") -> Box | None:
    """Return a box as corners, or None if it is not four finite numbers with x1 < x2 and y1 < y2.

    For a normalized format, also return None if the values cannot be fractions of the image.
    """
    if not isinstance(value, list | tuple) or len(value) != 4:
        return None
    if not all(isinstance(number, int | float) and not isinstance(number, bool) for number in value):
        return None
    try:
        x1, y1, x2, y2 = map(float, value)
    except OverflowError:
        return None
    if form != "xyxy":
        x1, y1, x2, y2 = _corners((x1, y1, x2, y2), form)
    if not (x1 < x2 and y1 < y2 and all(map(math.isfinite, (x1, y1, x2, y2)))):
        return None
    if is_normalized(form) and not (x1 > -1 and y1 > -1 and x2 < 2 and y2 < 2):
        return None
    return x1, y1, x2, y2


def is_normalized(form: BoxFormat) -> bool:
    """Return whether boxes of this format are normalized by the image's width and height."""
    return form.endswith("-normalized")


def _corners(box: Box, form: BoxFormat) -> Box:
    a, b, c, d = box
    match form.removesuffix("-normalized"):
        case "xywh":
            return a, b, a + c, b + d
        case "cxcywh":
            return a - c / 2, b - d / 2, a + c / 2, b + d / 2
    return box


def within_unit(boxes: Iterable[Box]) -> bool:
    """Return whether all boxes lie within 0..1, as normalized boxes do; in pixels, none would exceed one pixel."""
    return all(x1 >= 0 and y1 >= 0 and x2 <= 1 and y2 <= 1 for x1, y1, x2, y2 in boxes)


def are_fractions(boxes: Iterable[Box]) -> bool:
    """Return whether any coordinate of boxes within 0..1 is neither 0 nor 1, unlike those of `[0, 0, 1, 1]`."""
    return any(number not in (0.0, 1.0) for box in boxes for number in box)


def scale_boxes(boxes: Iterable[Box], width: int, height: int) -> tuple[Box, ...]:
    """Convert normalized boxes to pixels."""
    return tuple((x1 * width, y1 * height, x2 * width, y2 * height) for x1, y1, x2, y2 in boxes)


def fit_boxes(record: ImageRecord, report: Report) -> ImageRecord:
    """Return the record with boxes clipped to the image if they extend at most a pixel beyond it.

    Rounding in published annotations causes such boxes. Boxes further outside are kept and counted: they may be xywh
    read as xyxy, or belong to another size of the image. If the image size is unknown, the record is unchanged.
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
