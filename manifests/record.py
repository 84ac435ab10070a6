"""One image to process, and the error that all readers of this package raise."""

from __future__ import annotations

from typing import NamedTuple

Box = tuple[float, float, float, float]


class ManifestError(Exception):
    """A source or manifest that cannot be read; the message says what, where and what to do."""


class ImageRecord(NamedTuple):
    """One row of a manifest: one image, with the text that belongs to it, in the order of the manifest's columns."""

    image_id: str
    """Unique in its manifest."""
    uri: str
    """Path or URL (fsspec) of the image's bytes."""
    captions: tuple[str, ...] = ()
    """Captions as published, without white space at either end."""
    split: str = ""
    """`train`, `val`, `test`, `restval`, … as the source names it; empty if it names none."""
    boxes_xyxy: tuple[Box, ...] | None = None
    """Given boxes in pixels of the stored image; None asks the detector for its own."""
    sha256: str | None = None
    """Hex digest of the image's bytes, checked if it is known."""
    width: int | None = None
    """Pixels, where the source says."""
    height: int | None = None
    """Pixels, where the source says."""
    exif_orientation: bool = True
    """Whether the EXIF orientation is applied; False decodes the pixels as stored."""
