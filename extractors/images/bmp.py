"""BMP: the size. It has no metadata, and its decoder allocates nothing but the picture."""

from __future__ import annotations

import struct

from vilbert.extractors.images.container import Container
from vilbert.extractors.images.error import ImageError

_RUN_LENGTH = (1, 2)
_MAX_RUN_LENGTH_BYTES = 1 << 22  # Pillow reads these in Python, two bytes at a time: 64 MB would take half a minute


def read_bmp(data: bytes) -> Container:
    """Return the image, whole; a negative height says that its first row is the top one."""
    (header_size,) = struct.unpack_from("<I", data, 14)
    if header_size == 12:
        width, height = struct.unpack_from("<HH", data, 18)
    else:
        width, height, compression = struct.unpack_from("<ii4xI", data, 18)
        if compression in _RUN_LENGTH and len(data) > _MAX_RUN_LENGTH_BYTES:
            raise ImageError("unsupported_format", f"run-length coded BMP of {len(data)} bytes")
    return Container(format="BMP", width=width, height=abs(height), body=data)
