"""One image to process, and the error that every reader of this package raises."""

from __future__ import annotations

from typing import NamedTuple

Box = tuple[float, float, float, float]


class ManifestError(Exception):
    """A source or manifest that cannot be read as asked; says what, where and what to do."""


class ImageRecord(NamedTuple):
    """One row of a manifest: one image, with the text that belongs to it, in the order of the manifest's columns."""

    image_id: str
    """Unique in its manifest."""
    uri: str
    """Path or URL (fsspec) of the image's bytes."""
    captions: tuple[str, ...] = ()
    """Captions as published, but for white space at either end."""
    split: str = ""
    """`train`, `val`, `test`, `restval`, … as the source names it; empty where it names none."""
    boxes_xyxy: tuple[Box, ...] | None = None
    """Given boxes in pixels of the stored image; None asks the detector for its own."""
    sha256: str | None = None
    """Hex digest of the image's bytes, checked where it is known."""
    width: int | None = None
    """Pixels, where the source says."""
    height: int | None = None
    """Pixels, where the source says."""
    exif_orientation: bool = True
    """Whether the image is turned upright as its EXIF says; False decodes the pixels as stored."""
