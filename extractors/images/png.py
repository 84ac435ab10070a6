"""PNG (W3C, 3rd edition): the header, the palette, transparency and the pixels, each with its checksum."""

from __future__ import annotations

import struct
import zlib

from extractors.images.container import MAX_PARTS, Container
from extractors.images.error import ImageError
from extractors.images.exif import exif_orientation

_KEPT = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})


def read_png(data: bytes) -> Container:
    """Return the still image of the file; of an animation the picture that a still reader shows."""
    view, body = memoryview(data), bytearray(data[:8])
    position, frames, exif = 8, 0, b""
    for _ in range(MAX_PARTS):
        length, kind = struct.unpack_from(">I4s", data, position)
        end = position + 12 + length
        if (kind == b"IHDR") != (position == 8):
            raise ImageError("corrupt", f"PNG with the chunk {kind!r} at byte {position}")
        if end > len(data):
            raise ImageError("truncated", f"PNG ends within the chunk {kind!r}")
        if kind in _KEPT:
            # Pillow checks the sums of the header but not those of the pixels.
            if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end], "big"):
                raise ImageError("corrupt", f"PNG with a wrong checksum in the chunk {kind!r}")
            body += view[position:end]
        elif kind == b"fcTL":
            frames += 1
        elif kind == b"eXIf":
            exif = data[position + 8 : end - 4]
        position = end
        if kind == b"IEND":
            break
    else:
        raise ImageError("corrupt", f"PNG of more than {MAX_PARTS} chunks")
    width, height = struct.unpack_from(">II", body, 16)
    return Container(
        format="PNG",
        width=width,
        height=height,
        body=bytes(body),
        frames=max(frames, 1),
        orientation=exif_orientation(exif),
    )
