"""COCO captions, 2014 and 2017: `captions_{train,val}{2014,2017}.json` (Chen et al. 2015, cocodataset.org)."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vilbert.manifests.captions import image_captions, storable
from vilbert.manifests.readers.document import pixels, read_document
from vilbert.manifests.readers.fields import FieldError, id_field, text_field
from vilbert.manifests.readers.images import ImageRoot
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.manifests.report import Report
from vilbert.manifests.uri import REMOTE, is_remote

_PART = re.compile(r"(train|val|test)(20\d\d)")


def part_of(image: str, annotations: Path) -> tuple[str, str]:
    """Return (folder, split) such as ("train2014", "train"), from the image's name or else the annotation file's."""
    match = _PART.search(image) or _PART.search(annotations.name)
    return (match[0], match[1]) if match else ("", "")


def captions_by_image(path: Path, document: dict[str, Any], report: Report) -> dict[str, list[object]]:
    """Return the captions of every image in file order: usually five, sometimes six or seven."""
    captions: defaultdict[str, list[object]] = defaultdict(list)
    for i, row in enumerate(document["annotations"]):
        where = f"{path}: annotations[{i}]"
        if "caption" not in row and "bbox" in row:
            raise ManifestError(f"{where} has boxes, not captions; give the file to --given-boxes instead")
        try:
            captions[id_field(row, "image_id")].append(row.get("caption"))
        except FieldError as error:
            report.count("malformed-row", f"{where}: {error}")
    return captions


def read_coco(
    path: Path, report: Report, *, images: ImageRoot | None = None, split: str | None = None
) -> Iterator[ImageRecord]:
    """Yield one record per image with all its captions. The COCO id is the image id.

    Without `images`, the uri is the `coco_url` in the file.

    Raises:
        ManifestError: `images` is None and an image has no `coco_url`.
    """
    document = read_document(path, ["images"], optional=["annotations"])  # test images have no annotations
    captions = captions_by_image(path, document, report)
    for i, row in enumerate(document["images"]):
        where = f"{path}: images[{i}]"
        try:
            image_id, name = id_field(row, "id"), text_field(row, "file_name")
        except FieldError as error:
            report.count("malformed-row", f"{where}: {error}")
            continue
        folder, published = part_of(name, path)
        path_of_image = images and images.find(name, folder=folder, where=where, report=report)
        yield ImageRecord(
            image_id=image_id,
            uri=path_of_image or _url(row, where),
            captions=image_captions(captions.pop(image_id, []), f"{path}: image {image_id}", report),
            split=published if split is None else split,
            width=pixels(row.get("width")),
            height=pixels(row.get("height")),
        )
    for image_id, texts in captions.items():
        report.count("caption-without-image", f"{path}: image_id {image_id}", len(texts))


def _url(row: dict[str, Any], where: str) -> str:
    """Return the row's `coco_url`. Raise ManifestError if it is missing or is a local path."""
    url = row.get("coco_url")
    if not isinstance(url, str) or not url:
        raise ManifestError(f"{where}: no coco_url; give --images, the folder of the image files")
    if not is_remote(url):
        raise ManifestError(
            f"{where}: coco_url {url!r:.80} is not a URL of {', '.join(sorted(REMOTE))}; give --images, the folder of "
            "the image files"
        )
    return storable(url)
