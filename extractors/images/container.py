"""One still image in its own format: what every reader of this package returns.

Pillow is handed a file of one still image and nothing else. Metadata, later frames and whatever follows the image are
left out, so a zip bomb in a text chunk, a colour profile of a gigabyte, an EXIF block that points at itself a
thousand times, or a telephone's second picture neither costs anything nor fails the image; and size limits are applied
to what stands here, before any decoder has run. All walks are linear in the file and bounded by `MAX_PARTS`.
"""

from __future__ import annotations

from dataclasses import dataclass

MAX_PARTS = 100_000
"""Most segments, chunks, blocks or pages of a file. Photographs have dozens, a 64 MB PNG of 1 KB chunks 65 536."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Container:
    """An image still coded, and what its file says about it."""

    format: str
    """JPEG, PNG, GIF, WEBP, BMP or TIFF."""
    width: int
    """Pixels, as stored."""
    height: int
    """Pixels, as stored."""
    body: bytes
    """The file without what the pixels of its first frame do not need."""
    frames: int = 1
    """Frames of an animation, pages of a TIFF."""
    orientation: int = 1
    """EXIF orientation 1 to 8; 1, upright, if there is none or it cannot be read."""
    truncated: bool = False
    """Whether the file ends too early and the body was closed in its stead."""
