"""COCO captions, 2014 and 2017: `captions_{train,val}{2014,2017}.json` (Chen et al. 2015, cocodataset.org)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from manifests.captions import clean_captions
from manifests.document import need, pixels, read_document
from manifests.images import ImageRoot
from manifests.record import ImageRecord, ManifestError
from manifests.report import Report

_PART = re.compile(r"(train|val|test)(20\d\d)")


def part_of(image: str, annotations: Path) -> tuple[str, str]:
    """Return (folder, split) such as ("train2014", "train"): what the image's name says, else the annotation file's."""
    match = _PART.search(image) or _PART.search(annotations.name)
    return (match[0], match[1]) if match else ("", "")


def captions_by_image(path: Path, document: dict[str, Any]) -> dict[int | str, list[str]]:
    """Return every image's captions in the file's order: five as a rule, six or seven now and then."""
    captions = defaultdict(list)
    for i, row in enumerate(document["annotations"]):
        where = f"{path}: annotations[{i}]"
        if "caption" not in row and "bbox" in row:
            raise ManifestError(f"{where} has boxes, not captions; give the file to --given-boxes instead")
        captions[need(row, "image_id", (int, str), where)].append(need(row, "caption", str, where))
    return captions


def read_coco(
    path: Path, report: Report, *, images: ImageRoot | None = None, split: str | None = None
) -> Iterator[ImageRecord]:
    """Yield one record an image with all its captions; the COCO id is the image id.

    Without `images` the uri is the file's own `coco_url`; ManifestError where it has none.
    """
    document = read_document(path, ["images"], optional=["annotations"])  # test images have no annotations
    captions = captions_by_image(path, document)
    for i, row in enumerate(document["images"]):
        where = f"{path}: images[{i}]"
        image_id, name = need(row, "id", (int, str), where), need(row, "file_name", str, where)
        folder, published = part_of(name, path)
        if images is not None:
            uri = images.find(name, folder=folder, where=where, report=report)
        elif isinstance(url := row.get("coco_url"), str) and url:
            uri = url
        else:
            raise ManifestError(f"{where}: no coco_url; give --images, the folder of the image files")
        texts = captions.pop(image_id, [])
        if not texts:
            report.count("no-caption", f"{where}: id {image_id}")
        yield ImageRecord(
            image_id=str(image_id),
            uri=uri,
            captions=clean_captions(texts, f"{path}: image {image_id}", report),
            split=published if split is None else split,
            width=pixels(row.get("width")),
            height=pixels(row.get("height")),
        )
    for image_id, texts in captions.items():
        report.count("caption-without-image", f"{path}: image_id {image_id}", len(texts))
