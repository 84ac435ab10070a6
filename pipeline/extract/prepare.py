"""One manifest row to pixels, or to the reason why not. This is the per-image boundary: no row stops a shard."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vilbert.extractors.batch import ResizedImage
from vilbert.extractors.decode import DecodedImage, DecodeSettings, ImageError, decode
from vilbert.manifests.record import ImageRecord
from vilbert.manifests.uri import ImageReader, mask_credentials
from vilbert.pipeline.shards.failures import FailureRow


@dataclass(frozen=True, kw_only=True, eq=False)
class Prepared:
    """A row that is ready for the detector."""

    row: int
    record: ImageRecord
    image: DecodedImage
    sha256: str
    """Of the image's bytes."""
    boxes: NDArray[np.float32] | None
    """[N, 4] given boxes, xyxy pixels."""
    data: bytes | None = None
    """The image's bytes, where they are to be stored."""
    resized: ResizedImage | None = None
    """The image as the detector takes it, where that is computed ahead; `image` then has no pixels."""

    @property
    def detector_input(self) -> NDArray[np.uint8] | ResizedImage:
        """What the detector takes of the image."""
        return self.image.pixels if self.resized is None else self.resized


def prepare(
    row: int,
    record: ImageRecord,
    settings: DecodeSettings,
    read: Callable[[], bytes],
    *,
    keep: bool = False,
    of_dataset: bool = False,
    own_boxes: bool = False,
) -> Prepared | FailureRow:
    """Read, check and decode a row's image.

    Args:
        row: Its number.
        record: The row.
        settings: How to decode.
        read: Returns the image's bytes, or raises ImageError.
        keep: Whether the bytes are to be stored.
        of_dataset: Whether the row is one of `write_base_rows`: its boxes are those of a data set, which lie on the
            image as it was turned for the detector, and were checked when they were written.
        own_boxes: Whether the detector selects boxes of its own, whatever boxes such a row has.
    """
    try:
        data = read()
        digest = hashlib.sha256(data).hexdigest()
        if record.sha256 is not None and record.sha256 != digest:
            raise ImageError("sha256_mismatch", f"the manifest has {record.sha256}, the file {digest}")
        turned = record.exif_orientation if of_dataset else turns(record)
        image = decode(data, settings, apply_orientation=turned)
        size = image.pixels.shape[:2]
        boxes = None
        if record.boxes_xyxy is not None:
            boxes = boxes_of_dataset(record, *size) if of_dataset else given_boxes(record, *size)
            boxes = None if own_boxes else boxes
    except ImageError as error:
        return failure(row, record, error)
    except MemoryError:
        return failure(row, record, ImageError("out_of_memory", "while preparing the image"))
    return Prepared(row=row, record=record, image=image, sha256=digest, boxes=boxes, data=data if keep else None)


def turns(record: ImageRecord) -> bool:
    """Say whether a row's image may be turned as its EXIF says: not where boxes or annotations are of stored pixels."""
    return record.exif_orientation and record.boxes_xyxy is None


def failure(row: int, record: ImageRecord, error: ImageError) -> FailureRow:
    """Return the line that a failed row gets in `failures/`: the same on every run, so without addresses in memory."""
    detail = mask_credentials(re.sub(r"\b0x[0-9a-f]+", "0x...", error.detail))
    uri = mask_credentials(record.uri)
    return FailureRow(row=row, image_id=record.image_id, uri=uri, reason=error.reason, detail=detail)


def fetch(uri: str, max_bytes: int, reader: ImageReader) -> bytes:
    """Return the bytes behind a record's uri; raise ImageError where they cannot be had or are too many."""
    try:
        data = reader.read(uri, max_bytes + 1)
    except FileNotFoundError:
        raise ImageError("missing_file", "no such file") from None
    except MemoryError:
        raise ImageError("out_of_memory", "while reading the file") from None
    except Exception as error:  # file systems behind fsspec raise errors of their own kinds
        raise ImageError("unreadable", f"{type(error).__name__}: {error}") from error
    if len(data) > max_bytes:
        raise ImageError("too_large", f"more than {max_bytes} bytes")
    return data


def boxes_of_dataset(record: ImageRecord, height: int, width: int) -> NDArray[np.float32]:
    """Return the boxes of a row of `write_base_rows`, [N, 4]; ImageError where the image has another size."""
    if (record.width, record.height) != (width, height):
        size = f"{record.width}x{record.height}"
        raise ImageError("bad_boxes", f"the boxes of the data set are of {size} pixels, the image has {width}x{height}")
    return np.asarray(record.boxes_xyxy, dtype=np.float32).reshape(-1, 4)


def given_boxes(record: ImageRecord, height: int, width: int) -> NDArray[np.float32]:
    """Return a record's boxes as [N, 4]; raise ImageError if the list is empty or a box is outside the image."""
    boxes_xyxy = np.asarray(record.boxes_xyxy, dtype=np.float32).reshape(-1, 4)
    if not len(boxes_xyxy):
        raise ImageError("bad_boxes", "the list of given boxes is empty")
    left, top, right, bottom = boxes_xyxy.T
    inside = (left >= 0) & (top >= 0) & (right <= width) & (bottom <= height) & (left < right) & (top < bottom)
    if not inside.all():
        wrong = int(np.argmin(inside))
        raise ImageError(
            "bad_boxes", f"box {wrong}, {boxes_xyxy[wrong].tolist()}, is not a box inside {width}x{height} pixels"
        )
    if boxes_xyxy.max() <= 1 and not np.isin(boxes_xyxy, (0, 1)).all():  # [0, 0, 1, 1] is the first pixel
        raise ImageError(
            "bad_boxes",
            f"all boxes lie within 0..1, as {boxes_xyxy[0].tolist()}: expected pixels, not fractions of the image; "
            "create the "
            "manifest again with --box-format",
        )
    return boxes_xyxy
