"""The record of one image, and the error that all readers of this package raise."""

from __future__ import annotations

from typing import NamedTuple

Box = tuple[float, float, float, float]


class ManifestError(Exception):
    """A source or manifest that cannot be read. The message says what is wrong, where, and what to do."""


class ImageRecord(NamedTuple):
    """One row of a manifest: an image and its captions. Fields are in the order of the manifest's columns."""

    image_id: str
    """Unique in its manifest."""
    uri: str
    """Path or URL (fsspec) of the image's bytes."""
    captions: tuple[str, ...] = ()
    """Captions as published, without surrounding white space."""
    split: str = ""
    """Split that the source names: `train`, `val`, `test`, `restval`, …; empty if it names none."""
    boxes_xyxy: tuple[Box, ...] | None = None
    """Given boxes in pixels of the stored image; None to detect boxes."""
    sha256: str | None = None
    """Hex digest of the image's bytes, verified if present."""
    width: int | None = None
    """Width in pixels, if the source gives it."""
    height: int | None = None
    """Height in pixels, if the source gives it."""
    exif_orientation: bool = True
    """Whether the EXIF orientation is applied; if False, pixels are decoded as stored."""
