"""Boxes that are given instead of detected, joined to records by image id.

From JSONL, `{"image_id": …, "boxes": [[x1, y1, x2, y2], …]}` (lines of one image add up), or from a COCO instances
file or COCO detection results (a list of the same objects), whose `bbox` is x, y, width, height. They are held in
memory: 32 bytes a box and some 200 an image.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from vilbert.manifests.box_units import boxes_in_pixels, refuse_fractions
from vilbert.manifests.boxes import BoxFormat, are_fractions, parse_box, parse_boxes, within_unit
from vilbert.manifests.readers.document import read_document
from vilbert.manifests.readers.fields import FieldError, id_field, list_field
from vilbert.manifests.readers.json_rows import read_jsonl
from vilbert.manifests.record import Box, ImageRecord, ManifestError
from vilbert.manifests.regular_file import open_regular
from vilbert.manifests.report import Report
from vilbert.untrusted.documents import parse_json

_HEAD = 1 << 20


class GivenBoxes:
    """Boxes by image id, and which of them found their image."""

    def __init__(self, path: Path, report: Report, form: BoxFormat | None = None) -> None:
        """Read the boxes of a file.

        form: how they are written; None for xyxy in JSONL and xywh in COCO instances, and then ManifestError where all
        boxes lie within 0..1.
        """
        self.path = path
        self._form = form
        self._boxes: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
        self._met: set[str] = set()
        found = (
            _read_jsonl(path, report, form or "xyxy")
            if is_jsonl(path)
            else _read_instances(path, report, form or "xywh")
        )
        for image_id, boxes in found:
            for box in boxes:
                self._boxes[image_id].extend(box)
        images = self._boxes.values()
        within = form is None and all(within_unit(_boxes(numbers)) for numbers in images)
        if within and any(are_fractions(_boxes(numbers)) for numbers in images):
            refuse_fractions(f"--given-boxes {path}", len(images))

    def join(self, records: Iterator[ImageRecord], report: Report) -> Iterator[ImageRecord]:
        """Yield the records with their boxes; count those without, and boxes outside their image."""
        joined, where = self._joined(records, report), f"--given-boxes {self.path}"
        return boxes_in_pixels(joined, where, report, self._form, only=self._boxes.keys())

    def _joined(self, records: Iterator[ImageRecord], report: Report) -> Iterator[ImageRecord]:
        for record in records:
            numbers = self._boxes.get(record.image_id)
            if numbers is None:
                report.count("no-given-boxes", record.image_id)
                yield record
                continue
            self._met.add(record.image_id)
            yield record._replace(boxes_xyxy=tuple(_boxes(numbers)))

    def count_unmet(self, report: Report) -> None:
        """Count the images whose boxes no record took."""
        for image_id in self._boxes.keys() - self._met:
            report.count("boxes-without-image", f"{self.path}: image_id {image_id}")


def _boxes(numbers: array[float]) -> Iterator[Box]:
    return zip(*[iter(numbers)] * 4, strict=True)


def is_jsonl(path: Path) -> bool:
    """Say whether a file's first line alone is a JSON object with boxes."""
    try:
        with open(path, encoding="utf-8-sig", opener=open_regular) as file:
            first = parse_json(file.readline(_HEAD), allow_surrogates=True, allow_nan=True)
    except FileNotFoundError:
        raise ManifestError(f"--given-boxes {path}: no such file") from None
    except OSError as error:
        raise ManifestError(f"--given-boxes {path}: cannot be read: {error.strerror}") from None
    except ValueError:
        return False
    return isinstance(first, dict) and "boxes" in first


def _read_jsonl(path: Path, report: Report, form: BoxFormat) -> Iterator[tuple[str, tuple[Box, ...]]]:
    for where, row in read_jsonl(path, report):
        try:
            image_id = id_field(row, "image_id")
            if "boxes" not in row:
                raise FieldError("boxes are missing")
        except FieldError as error:
            report.count("malformed-row", f"{where}: {error}")
            continue
        yield image_id, parse_boxes(row["boxes"], where, report, form)


def _read_instances(path: Path, report: Report, form: BoxFormat) -> Iterator[tuple[str, tuple[Box, ...]]]:
    document = read_document(path, ["annotations"], drop=["segmentation"], bare="annotations")
    for i, row in enumerate(document["annotations"]):
        where = f"{path}: annotations[{i}]"
        try:
            image_id, bbox = id_field(row, "image_id"), list_field(row, "bbox")
        except FieldError as error:
            report.count("malformed-row", f"{where}: {error}")
            continue
        if row.get("iscrowd"):
            report.count("crowd-box", f"{where}: image_id {image_id}")
        elif (box := parse_box(bbox, form)) is None:
            report.count("bad-box", f"{where}: {bbox!r:.80}")
        else:
            yield image_id, (box,)
