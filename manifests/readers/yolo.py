"""YOLO annotations: one text file per image, one line per object, `class x y width height [confidence]`.

Centre and size are normalized by the image size. A line with three or more points is a polygon of YOLO's segmentation
format, `class x1 y1 x2 y2 x3 y3 ...`; its box is the bounding box of the points. Source: docs.ultralytics.com/datasets.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vilbert.manifests.boxes import BoxFormat, is_normalized, parse_box
from vilbert.manifests.readers.annotation_files import annotation_files, read_annotation
from vilbert.manifests.record import Box
from vilbert.manifests.report import Report

FORM: BoxFormat = "cxcywh-normalized"
_MAX_BYTES = 4 << 20


def read_yolo(folder: Path, report: Report, form: BoxFormat, min_score: float) -> Iterator[tuple[str, tuple[Box, ...]]]:
    """Yield (image id, boxes) of each file that has boxes, as corners in the unit of `form`.

    Unreadable files and lines, and boxes with a confidence below `min_score`, are counted and skipped.
    """
    for path, image_id in annotation_files(folder, ".txt"):
        try:
            lines = read_annotation(path, _MAX_BYTES).decode("utf-8-sig").splitlines()
        except (OSError, ValueError) as error:
            report.count("unreadable-annotation", f"{path}: {error}")
            continue
        boxes = []
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            where = f"{path}:{number}"
            try:
                _, *values = map(float, line.split())
            except ValueError:
                report.count("malformed-row", f"{where}: {line!r:.80}")
                continue
            if len(values) == 5 and not values[4] >= min_score:
                report.count("low-score-box", where)
            elif (box := _box(values, form)) is None:
                report.count("bad-box", f"{where}: {line!r:.80}")
            else:
                boxes.append(box)
        if boxes:
            yield image_id, tuple(boxes)


def _box(values: list[float], form: BoxFormat) -> Box | None:
    if len(values) in (4, 5):
        return parse_box(values[:4], form)
    if len(values) < 6 or len(values) % 2:
        return None
    x, y = values[::2], values[1::2]
    corners = [min(x), min(y), max(x), max(y)]
    return parse_box(corners, "xyxy-normalized" if is_normalized(form) else "xyxy")
