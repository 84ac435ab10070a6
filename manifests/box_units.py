"""The unit of given boxes: pixels, or fractions of the image as stated by `--box-format`.

Fractions that are read as pixels all lie in the first pixel of the image, so every region would have the same features.
Therefore a source whose boxes all lie within 0..1 is refused unless `--box-format` states their unit.
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
    """Raise ManifestError for boxes that are fractions although `--box-format` does not say so."""
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
    """Yield the records with boxes in pixels; boxes that lie up to a pixel outside their image are clipped.

    only: ids of the images whose boxes come from this source. Other records are not changed, because their own source
    has already converted their boxes. None for all.
    form: the format that the user stated; None for pixels. With None, images with boxes that are fractions are counted,
    and ManifestError is raised at the end if all boxes are. ManifestError is also raised if boxes are fractions and the
    size of an image is unknown.
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
    """Return (width, height) of a local image as stored, from its header; None if it cannot be read."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of large images, which nothing decodes here
            with Image.open(io.BytesIO(reader.read(uri, _MAX_BYTES)), formats=_FORMATS) as image:
                return image.size
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
