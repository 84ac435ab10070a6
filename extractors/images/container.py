"""One still image in its own format: what every reader of this package returns.

Of a JPEG, PNG, GIF or TIFF, Pillow gets one still image and nothing else. Metadata, later frames and whatever follows
the image are left out; parts whose number or size would cost a decoder minutes or gigabytes are refused; damage that
Pillow decodes to other pixels without an error is found. BMP and WebP files go to Pillow as they are.
`docs/decoding.md` has the measurements. Walks are linear in the file and bounded by `MAX_PARTS`.
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
    """EXIF orientation 1 to 8; 1 (upright) if it is missing or cannot be read."""
    truncated: bool = False
    """Whether the file ends too early and the body was closed in its stead."""
