"""WebP (RFC 9649): the canvas and the orientation; libwebp reads the chunks itself."""

from __future__ import annotations

import struct

from vilbert.extractors.images.container import MAX_PARTS, Container
from vilbert.extractors.images.error import ImageError
from vilbert.extractors.images.exif import exif_orientation


def read_webp(data: bytes) -> Container:
    """Return the image, whole: libwebp decodes its first frame alone and copies metadata without reading it."""
    (stop,) = struct.unpack_from("<I", data, 4)
    stop += 8
    if stop > len(data):
        raise ImageError("truncated", f"WebP of {stop} bytes by its header, {len(data)} there")
    size: tuple[int, int] | None = None
    position, frames, exif = 12, 0, b""
    for _ in range(MAX_PARTS):
        if position + 8 > stop:
            break
        kind, length = struct.unpack_from("<4sI", data, position)
        start = position + 8
        if kind == b"EXIF":
            exif = data[start : start + length]
        elif kind == b"ANMF":
            frames += 1
        elif size is None:  # an extended file's canvas stands before the picture's own size
            size = _size(kind, data, start)
        position = start + length + (length & 1)
    if size is None:
        raise ImageError("corrupt", "WebP without a picture")
    return Container(
        format="WEBP",
        width=size[0],
        height=size[1],
        body=data,
        frames=max(frames, 1),
        orientation=exif_orientation(exif),
    )


def _size(kind: bytes, data: bytes, start: int) -> tuple[int, int] | None:
    """Return (width, height) where this chunk gives it."""
    match kind:
        case b"VP8X":
            width, height = (int.from_bytes(data[at : at + 3], "little") for at in (start + 4, start + 7))
            return 1 + width, 1 + height
        case b"VP8 ":
            width, height = struct.unpack_from("<HH", data, start + 6)
            return width & 0x3FFF, height & 0x3FFF
        case b"VP8L":
            (bits,) = struct.unpack_from("<I", data, start + 1)
            return 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    return None
