"""Select the images that are decoded as stored, ignoring their EXIF orientation.

Annotations and published features of COCO, Visual Genome and Flickr30k (Karpathy's files) refer to stored pixels: a
rotated image does not match its boxes. The readers of their annotation files mark every image; in other sources, images
of COCO and Visual Genome are recognised by their file names.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

from vilbert.manifests.readers.detect import Kind
from vilbert.manifests.record import ImageRecord

log = logging.getLogger(__name__)
Choice = Literal["auto", "apply", "ignore"]
ANNOTATED: tuple[Kind, ...] = ("coco", "karpathy")
BY_NAME: tuple[Kind, ...] = ("folder", "csv", "jsonl", "json", "parquet")
_PUBLISHED = re.compile(
    r"COCO_(train|val|test)20\d\d_\d{12}\.jpg$"
    r"|(^|/)(train|val|test|unlabeled)20\d\d/\d{12}\.jpg$"
    r"|(^|/)VG_100K(_2)?/\d+\.jpg$"
)


def has_published_name(uri: str) -> bool:
    """Return whether a file name is one of COCO or Visual Genome, whose annotations refer to stored pixels."""
    return _PUBLISHED.search(uri) is not None


def may_keep_stored_pixels(choice: Choice, kinds: Iterable[Kind]) -> bool:
    """Return whether a manifest of sources of these kinds may have rows that are decoded as stored."""
    return choice == "ignore" or (choice == "auto" and any(kind in (*ANNOTATED, *BY_NAME) for kind in kinds))


class Orientation:
    """Sets `exif_orientation` of records, and counts those that are decoded as stored."""

    def __init__(self, choice: Choice) -> None:
        self._choice = choice
        self.stored = 0
        """Number of rows that are decoded as stored."""

    def set(self, records: Iterator[ImageRecord], kind: Kind) -> Iterator[ImageRecord]:
        """Return the records of a source of this kind with their orientation. Tables may have a column for it."""
        if self._choice == "ignore" or (self._choice == "auto" and kind in ANNOTATED):
            return self._set(records, lambda record: False)
        if kind not in BY_NAME:
            return records
        if self._choice == "apply":
            return self._set(records, lambda record: True)
        return self._set(records, lambda record: record.exif_orientation and not has_published_name(record.uri))

    def log_rows(self) -> None:
        """Log how many rows are decoded as stored, if there are any."""
        if self.stored:
            log.info(
                "%s rows keep their stored orientation, which the annotations of COCO and Visual Genome refer to "
                "(--exif-orientation apply rotates them)",
                f"{self.stored:,}",
            )

    def _set(self, records: Iterator[ImageRecord], applied: Callable[[ImageRecord], bool]) -> Iterator[ImageRecord]:
        for record in records:
            turns = applied(record)
            self.stored += not turns
            yield record if record.exif_orientation == turns else record._replace(exif_orientation=turns)
