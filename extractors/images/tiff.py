"""TIFF (6.0): the first page, with the tags that say how its pixels are coded and no others.

The file is left as it is, but for a new directory at its end and the four bytes that point there: so neither Pillow nor
libtiff sees metadata, other pages, or the orientation, which is applied once, here as for every format.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from vilbert.extractors.images.container import MAX_PARTS, Container
from vilbert.extractors.images.error import ImageError
from vilbert.extractors.images.exif import Entry, byte_order, first_directory, orientation_of, read_directory

_WIDTH, _HEIGHT, _COMPRESSION, _SAMPLES, _PLANES = 256, 257, 259, 277, 284
_STRIPS, _STRIP_ROWS, _STRIP_BYTES = 273, 278, 279
_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES = 322, 323, 324, 325
# The size, bits, colours and samples of the pixels, and where they are: the numbers above among them.
_KEPT = frozenset(
    {256, 257, 258, 259, 262, 266, 273, 277, 278, 279, 284, 292, 293, 317, 320}
    | {322, 323, 324, 325, 332, 338, 339, 347, 529, 530, 531, 532}
)
# None, CCITT, LZW, JPEG, deflate, PackBits. Others (LZMA, Zstandard) may ask for gigabytes in their own headers.
_COMPRESSIONS = frozenset({1, 2, 3, 4, 5, 7, 8, 32773, 32946})
_MAX_TILE = 1 << 22  # pixels of one tile, where the image itself has fewer


def read_tiff(data: bytes) -> Container:
    """Return the first page."""
    first = first_directory(data)
    entries = read_directory(data, first)
    kept = {tag: entries[tag] for tag in sorted(_KEPT & entries.keys())}
    width, height = _number(kept, _WIDTH, 0), _number(kept, _HEIGHT, 0)
    if not width or not height:
        raise ImageError("corrupt", "TIFF without its size")
    compression = _number(kept, _COMPRESSION, 1)
    if compression not in _COMPRESSIONS:
        raise ImageError("unsupported_format", f"TIFF of compression {compression}")
    if sum(entry.size for entry in kept.values()) > len(data):
        raise ImageError("truncated", "TIFF whose tags are larger than the file")
    _check_count(kept, width, height)
    _check_ends(data, kept)
    padding = b"\0" * (len(data) % 2)  # a directory begins at an even byte
    order = byte_order(data)
    directory = struct.pack(order + "H", len(kept)) + b"".join(entry.raw for entry in kept.values()) + bytes(4)
    return Container(
        format="TIFF",
        width=width,
        height=height,
        body=data[:4] + struct.pack(order + "I", len(data) + len(padding)) + data[8:] + padding + directory,
        frames=_pages(data, first),
        orientation=orientation_of(entries),
    )


def _number(entries: dict[int, Entry], tag: int, default: int) -> int:
    if tag not in entries:
        return default
    number = entries[tag].number
    if number is None:
        raise ImageError("corrupt", f"TIFF whose tag {tag} is not one integer")
    return number


def _check_count(kept: dict[int, Entry], width: int, height: int) -> None:
    """Refuse strips or tiles that do not cover the image just once (more decode it over and over), and giant tiles."""
    if _STRIPS in kept:
        columns, rows = width, min(_number(kept, _STRIP_ROWS, height), height)
    else:
        columns, rows = _number(kept, _TILE_WIDTH, 0), _number(kept, _TILE_HEIGHT, 0)
        if columns * rows > max(width * height, _MAX_TILE):
            raise ImageError("corrupt", f"TIFF tiles of {columns}x{rows} in an image of {width}x{height}")
    if not columns or not rows:
        raise ImageError("corrupt", "TIFF without the size of its strips or tiles")
    planes = _number(kept, _SAMPLES, 1) if _number(kept, _PLANES, 1) == 2 else 1
    expected = -(-width // columns) * -(-height // rows) * planes
    given = max(kept[tag].items if tag in kept else 0 for tag in (_STRIPS, _TILES))
    if given != expected or given > MAX_PARTS:
        raise ImageError("corrupt", f"TIFF of {given} strips or tiles, {expected} expected")


def _check_ends(data: bytes, kept: dict[int, Entry]) -> None:
    """Refuse a file that ends before its tags or its strips do."""
    for entry in kept.values():
        entry.values(data)
    starts, sizes = (_STRIPS, _STRIP_BYTES) if _STRIPS in kept else (_TILES, _TILE_BYTES)
    ends = _integers(data, kept[starts])
    if sizes in kept:  # uncompressed files may lack them
        lengths = _integers(data, kept[sizes])
        if len(lengths) != len(ends):
            raise ImageError("corrupt", f"TIFF of {len(ends)} strips or tiles with {len(lengths)} sizes")
        ends += lengths
    if int(ends.max()) > len(data):
        raise ImageError("truncated", "TIFF ends within its picture")


def _integers(data: bytes, entry: Entry) -> NDArray[np.int64]:
    width = entry.size // max(entry.items, 1)
    if width not in (2, 4):
        raise ImageError("corrupt", "TIFF whose strips or tiles are not placed by integers")
    return np.frombuffer(entry.values(data), f"{byte_order(data)}u{width}").astype(np.int64)


def _pages(data: bytes, position: int) -> int:
    """Return how many directories the chain from `position` on has; a broken or circular chain ends there."""
    order = byte_order(data)
    seen: set[int] = set()
    while position and position not in seen and len(seen) < MAX_PARTS:
        try:
            (count,) = struct.unpack_from(order + "H", data, position)
            (following,) = struct.unpack_from(order + "I", data, position + 2 + 12 * count)
        except struct.error:
            break
        seen.add(position)
        position = following
    return len(seen)
