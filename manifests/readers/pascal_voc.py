"""Pascal VOC annotations: one XML file per image, `object/bndbox` with xmin, ymin, xmax, ymax.

The published files count pixels from 1 and include both ends, so the first corner is shifted by one pixel to the left
and up, as the VOC readers of detectron2 and torchvision do.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vilbert.manifests.boxes import parse_box
from vilbert.manifests.readers.annotation_files import annotation_files, read_annotation
from vilbert.manifests.record import Box
from vilbert.manifests.report import Report
from vilbert.untrusted.xml_documents import MAX_BYTES, parse_xml

CORNERS = ("xmin", "ymin", "xmax", "ymax")


def read_voc(folder: Path, report: Report, *, from_one: bool) -> Iterator[tuple[str, tuple[Box, ...]]]:
    """Yield (image id, boxes) of each file that has boxes, as corners in pixels. Count files that cannot be read.

    Args:
        folder: The folder of annotation files.
        report: Receives the counts.
        from_one: Whether pixels are counted from 1.
    """
    shift = 1.0 if from_one else 0.0
    for path, image_id in annotation_files(folder, ".xml"):
        try:
            root = parse_xml(read_annotation(path, MAX_BYTES))
        except (OSError, ValueError) as error:
            report.count("unreadable-annotation", f"{path}: {error}")
            continue
        boxes = []
        for index, item in enumerate(root.iterfind("object")):
            texts = [item.findtext(f"bndbox/{name}", "") for name in CORNERS]
            try:
                x1, y1, x2, y2 = map(float, texts)
            except ValueError:
                report.count("bad-box", f"{path}: object[{index}]: {texts!r:.80}")
                continue
            if (box := parse_box([x1 - shift, y1 - shift, x2, y2])) is None:
                report.count("bad-box", f"{path}: object[{index}]: {texts!r:.80}")
            else:
                boxes.append(box)
        if boxes:
            yield image_id, tuple(boxes)
