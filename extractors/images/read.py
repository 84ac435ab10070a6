"""From a file's bytes to its image, still coded, by what the bytes are and not by what they are called."""

from __future__ import annotations

import struct

from vilbert.extractors.images.bmp import read_bmp
from vilbert.extractors.images.container import Container
from vilbert.extractors.images.error import ImageError
from vilbert.extractors.images.gif import read_gif
from vilbert.extractors.images.jpeg import read_jpeg
from vilbert.extractors.images.png import read_png
from vilbert.extractors.images.sniff import sniff
from vilbert.extractors.images.tiff import read_tiff
from vilbert.extractors.images.webp import read_webp

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
