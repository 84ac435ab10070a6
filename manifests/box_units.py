"""Convert given boxes to pixels; normalized boxes must be declared with `--box-format`.

Normalized boxes that are read as pixels all lie in the first pixel of the image, so that every region would have the
same features. A source whose boxes all lie within 0..1 is therefore refused unless `--box-format` gives their format.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Container, Iterator
from typing import NoReturn

from vilbert.manifests.boxes import BoxFormat, are_fractions, fit_boxes, is_normalized, scale_boxes, within_unit
from vilbert.manifests.record import ImageRecord, ManifestError
from vilbert.manifests.report import Report
from vilbert.manifests.uri import ImageReader, is_local

_MAX_BYTES = 1 << 26
_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")


def refuse_fractions(where: str, images: int) -> NoReturn:
    """Raise ManifestError for normalized boxes without `--box-format`."""
    raise ManifestError(
        f"{where}: the boxes of all {images:,} images lie within 0..1, so they are fractions of the image, not "
        "pixels, and extraction would fail with bad_boxes; set their format with --box-format xyxy-normalized, "
        "xywh-normalized or cxcywh-normalized"
    )


def boxes_in_pixels(
    records: Iterator[ImageRecord],
    where: str,
    report: Report,
    form: BoxFormat | None,
    *,
    only: Container[str] | None = None,
) -> Iterator[ImageRecord]:
    """Yield the records with boxes in pixels, clipped to the image if they extend less than a pixel beyond it.

    Args:
        records: Records with boxes in the format `form`.
        where: Location for messages.
        report: Counts images whose boxes look normalized.
        form: The format that the user named, or None for pixels.
        only: Ids of the images whose boxes come from this source; other records are unchanged because their own source
            has already converted their boxes. None for all.

    Raises:
        ManifestError: `form` is None and all boxes look normalized, or boxes are normalized and an image size is
            unknown.
    """
    with_boxes = within = fractions = 0
    reader = ImageReader()
    for record in records:
        if only is not None and record.image_id not in only:
            yield record
            continue
        if boxes := record.boxes_xyxy:
            with_boxes += 1
            if form is not None and is_normalized(form):
                record = _in_pixels(record, where, report, form, reader)
            elif within_unit(boxes):
                within += 1
                if are_fractions(boxes):
                    fractions += 1
                    report.count("box-within-pixel", f"{record.image_id}: {list(boxes[0])}")
        yield fit_boxes(record, report)
    if form is None and fractions and within == with_boxes:
        refuse_fractions(where, within)


def _in_pixels(record: ImageRecord, where: str, report: Report, form: BoxFormat, reader: ImageReader) -> ImageRecord:
    boxes, width, height = record.boxes_xyxy or (), record.width, record.height
    if width is None or height is None:
        if not is_local(record.uri):
            raise ManifestError(
                f"{where}: image {record.image_id}: --box-format {form} needs the width and height of the image, which "
                f"the source does not give for {record.uri}; add columns width and height, or write the boxes in pixels"
            )
        size = image_size(record.uri, reader)
        if size is None:
            report.count("bad-box", f"{record.image_id}: the size of {record.uri} cannot be read", len(boxes))
            return record._replace(boxes_xyxy=None)
        width, height = size
    return record._replace(boxes_xyxy=scale_boxes(boxes, width, height))


def image_size(uri: str, reader: ImageReader) -> tuple[int, int] | None:
    """Return the stored (width, height) of a local image from its header, or None if it cannot be read."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about large images, which are not decoded here
            with Image.open(io.BytesIO(reader.read(uri, _MAX_BYTES)), formats=_FORMATS) as image:
                return image.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
