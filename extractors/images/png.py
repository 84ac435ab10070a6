"""PNG (W3C, 3rd edition): the header, the palette, transparency and the pixels, each with its checksum."""

from __future__ import annotations

import struct
import zlib

from vilbert.extractors.images.container import MAX_PARTS, Container
from vilbert.extractors.images.error import ImageError
from vilbert.extractors.images.exif import exif_orientation

_EXIF_PROFILE = b"Raw profile type exif\0"
_MAX_PROFILE = 1 << 18  # bytes of text; an Exif block has at most 64 KB, and its orientation stands near the start
_KEPT = frozenset({b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"})


def read_png(data: bytes) -> Container:
    """Return the still image of the file; of an animation the picture that a still reader shows."""
    view, body = memoryview(data), bytearray(data[:8])
    position, frames, exif, profile = 8, 0, b"", b""
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
        elif kind in (b"tEXt", b"zTXt") and data.startswith(_EXIF_PROFILE, position + 8):
            profile = _raw_profile(kind, data[position + 8 + len(_EXIF_PROFILE) : end - 4])
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
        orientation=exif_orientation(exif or profile),
    )


def _raw_profile(kind: bytes, text: bytes) -> bytes:
    """Return the block that ImageMagick writes as hexadecimal text, cut at `_MAX_PROFILE`; nothing if it is broken.

    The text is a line with a name, a line with the number of bytes, and the bytes.
    """
    try:
        if kind == b"zTXt":
            text = zlib.decompressobj().decompress(text[1:], _MAX_PROFILE)  # byte 0 names the only method there is
        digits = b"".join(text[:_MAX_PROFILE].split(b"\n")[3:])
        return bytes.fromhex(digits[: len(digits) & ~1].decode("ascii"))
    except (ValueError, zlib.error):
        return b""
