"""Boxes that are given instead of detected, joined to records by image id.

They are read from JSONL, `{"image_id": …, "boxes": [[x1, y1, x2, y2], …]}` (several lines may belong to one image),
from a COCO instances file or COCO detection results (a list of the same objects), whose `bbox` is x, y, width, height,
or from a folder of YOLO or Pascal VOC files, one per image. They take 32 bytes of memory per box and about 200 per
image.
"""

from __future__ import annotations

import os
from array import array
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from vilbert.manifests.box_units import boxes_in_pixels, refuse_fractions
from vilbert.manifests.boxes import BoxFormat, are_fractions, parse_box, parse_boxes, within_unit
from vilbert.manifests.readers import yolo
from vilbert.manifests.readers.annotation_files import annotation_suffix
from vilbert.manifests.readers.document import read_document
from vilbert.manifests.readers.fields import FieldError, id_field, list_field
from vilbert.manifests.readers.json_rows import read_jsonl
from vilbert.manifests.readers.pascal_voc import read_voc
from vilbert.manifests.record import Box, ImageRecord, ManifestError
from vilbert.manifests.regular_file import open_regular
from vilbert.manifests.report import Report
from vilbert.untrusted.documents import parse_json

_HEAD = 1 << 20


class GivenBoxes:
    """Boxes by image id, and which of them were joined to an image."""

    def __init__(self, path: Path, report: Report, form: BoxFormat | None = None, *, min_score: float = 0.0) -> None:
        """Read the boxes of a file or folder.

        Args:
            path: The file or folder.
            report: Counts invalid boxes.
            form: Format of the boxes; None for the default (xyxy in JSONL and VOC, xywh in COCO, cxcywh-normalized in
                YOLO).
            min_score: Boxes with a lower score are counted and skipped, if the format has scores.

        Raises:
            ManifestError: `form` is None and all boxes of a format other than YOLO lie within 0..1.
        """
        self.path = path
        self._by_name = path.is_dir()
        self._joined_ids: set[str] = set()
        form, found = _read(path, report, form, min_score)
        self._form = form
        self._boxes: defaultdict[str, array[float]] = defaultdict(lambda: array("d"))
        self._met: set[str] = set()
        for image_id, boxes in found:
            for box in boxes:
                self._boxes[image_id].extend(box)
        images = self._boxes.values()
        within = form is None and all(within_unit(_boxes(numbers)) for numbers in images)
        if within and any(are_fractions(_boxes(numbers)) for numbers in images):
            refuse_fractions(f"--given-boxes {path}", len(images))

    def join(self, records: Iterator[ImageRecord], report: Report) -> Iterator[ImageRecord]:
        """Yield the records with their boxes; count records without boxes, and boxes outside their image."""
        joined, where = self._joined(records, report), f"--given-boxes {self.path}"
        return boxes_in_pixels(joined, where, report, self._form, only=self._joined_ids)

    def _joined(self, records: Iterator[ImageRecord], report: Report) -> Iterator[ImageRecord]:
        for record in records:
            key = record.image_id
            if self._by_name and key not in self._boxes:
                key = os.path.splitext(os.path.basename(record.uri))[0]
            numbers = self._boxes.get(key)
            if numbers is None:
                report.count("no-given-boxes", record.image_id)
                yield record
                continue
            self._met.add(key)
            self._joined_ids.add(record.image_id)
            yield record._replace(boxes_xyxy=tuple(_boxes(numbers)))

    def count_unmet(self, report: Report) -> None:
        """Count the images with boxes but without a record."""
        for image_id in self._boxes.keys() - self._met:
            report.count("boxes-without-image", f"{self.path}: image_id {image_id}")


def _read(
    path: Path, report: Report, form: BoxFormat | None, min_score: float
) -> tuple[BoxFormat | None, Iterator[tuple[str, tuple[Box, ...]]]]:
    """Return the box format (None for the default in pixels), and (image id, boxes) of a file or folder."""
    if path.is_dir():
        if annotation_suffix(path) == ".txt":
            form = form or yolo.FORM
            return form, yolo.read_yolo(path, report, form, min_score)
        if form not in (None, "xyxy"):
            raise ManifestError(f"--box-format {form}: Pascal VOC files hold xyxy in pixels; remove the option")
        return form, read_voc(path, report, from_one=form is None)
    if is_jsonl(path):
        return form, _read_jsonl(path, report, form or "xyxy")
    return form, _read_instances(path, report, form or "xywh", min_score)


def _boxes(numbers: array[float]) -> Iterator[Box]:
    return zip(*[iter(numbers)] * 4, strict=True)


def is_jsonl(path: Path) -> bool:
    """Return whether the first line of a file is a JSON object with boxes."""
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


def _read_instances(
    path: Path, report: Report, form: BoxFormat, min_score: float
) -> Iterator[tuple[str, tuple[Box, ...]]]:
    document = read_document(path, ["annotations"], drop=["segmentation", "keypoints"], bare="annotations")
    for i, row in enumerate(document["annotations"]):
        where = f"{path}: annotations[{i}]"
        try:
            image_id, bbox = id_field(row, "image_id"), list_field(row, "bbox")
        except FieldError as error:
            report.count("malformed-row", f"{where}: {error}")
            continue
        score = row.get("score", 1.0)  # present in detection results
        if not isinstance(score, int | float) or not score >= min_score:
            report.count("low-score-box", f"{where}: score {score!r:.20}")
        elif row.get("iscrowd"):
            report.count("crowd-box", f"{where}: image_id {image_id}")
        elif (box := parse_box(bbox, form)) is None:
            report.count("bad-box", f"{where}: {bbox!r:.80}")
        else:
            yield image_id, (box,)
