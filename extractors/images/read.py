"""From a file's bytes to its image, still coded, by what the bytes are and not by what they are called."""

from __future__ import annotations

import io
import struct

from PIL.BmpImagePlugin import BmpImageFile
from PIL.ImageFile import ImageFile
from PIL.WebPImagePlugin import WebPImageFile

from vilbert.extractors.images.container import Container
from vilbert.extractors.images.error import ImageError
from vilbert.extractors.images.exif import exif_orientation
from vilbert.extractors.images.gif import read_gif
from vilbert.extractors.images.jpeg import read_jpeg
from vilbert.extractors.images.png import read_png
from vilbert.extractors.images.sniff import sniff
from vilbert.extractors.images.tiff import read_tiff

_RUN_LENGTH = (1, 2)
_MAX_RUN_LENGTH_BYTES = 1 << 22  # Pillow decodes them in Python, two bytes at a time: 64 MB take 20 seconds


def read_bmp(data: bytes) -> Container:
    """Return the whole file: Pillow reads no metadata of a BMP and allocates nothing but the picture."""
    if len(data) > _MAX_RUN_LENGTH_BYTES and int.from_bytes(data[30:34], "little") in _RUN_LENGTH:
        raise ImageError("unsupported_format", f"run-length coded BMP of {len(data)} bytes")
    return _whole_file("BMP", BmpImageFile(io.BytesIO(data)), data)


def read_webp(data: bytes) -> Container:
    """Return the whole file: libwebp decodes the first frame alone, and Pillow checks the canvas before it does."""
    size = 8 + int.from_bytes(data[4:8], "little")
    if size > len(data):
        raise ImageError("truncated", f"WebP of {size} bytes by its header, {len(data)} there")
    return _whole_file("WEBP", WebPImageFile(io.BytesIO(data)), data)


def _whole_file(format: str, opened: ImageFile, data: bytes) -> Container:
    with opened as image:
        return Container(
            format=format,
            width=image.width,
            height=image.height,
            body=data,
            frames=getattr(image, "n_frames", 1),
            orientation=exif_orientation(image.info.get("exif", b"")),
        )


_READERS = {"PNG": read_png, "GIF": read_gif, "WEBP": read_webp, "BMP": read_bmp, "TIFF": read_tiff}


def read_container(data: bytes, *, allow_truncated: bool = False) -> Container:
    """Return the image of a file.

    allow_truncated: take a JPEG that ends within its picture; other formats are refused all the same.
    Raises ImageError: empty, not_an_image, unsupported_format, truncated or corrupt.
    """
    if not data:
        raise ImageError("empty")
    sniffed = sniff(data)
    if not sniffed.image:
        raise ImageError("not_an_image", sniffed.name)
    if not sniffed.decodable:
        raise ImageError("unsupported_format", sniffed.name)
    try:
        if sniffed.name == "JPEG":
            return read_jpeg(data, allow_truncated=allow_truncated)
        return _READERS[sniffed.name](data)
    except (IndexError, struct.error):  # a field is read that lies past the end
        raise ImageError("truncated", f"{sniffed.name} ends too early") from None
