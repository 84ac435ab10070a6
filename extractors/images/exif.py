"""The tag directories of TIFF 6.0, of which an Exif block is one, and their orientation (Exif 3.0, tag 0x0112)."""

from __future__ import annotations

import struct
from typing import NamedTuple

_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_SHORT, _LONG, _SIGNED_SHORT, _SIGNED_LONG = 3, 4, 8, 9
_ORIENTATION = 274
_MARK = b"Exif\0\0"
# The last two have the magic number in the wrong byte order; some cameras write them, and Pillow reads them.
_HEADERS = (b"II*\0", b"MM\0*", b"II\0*", b"MM*\0")


class Entry(NamedTuple):
    """One tag of a directory."""

    size: int
    """Bytes of its values; up to four stand in the entry itself."""
    items: int
    """How many values."""
    number: int | None
    """The value, where it is one integer of 16 or 32 bits, read as unsigned."""
    raw: bytes
    """All twelve bytes."""

    def values(self, data: bytes) -> bytes:
        """Return the bytes of its values; raise struct.error where the data ends before them."""
        if self.size <= 4:
            return self.raw[8 : 8 + self.size]
        (start,) = struct.unpack_from(byte_order(data) + "I", self.raw, 8)
        values = data[start : start + self.size]
        if len(values) < self.size:
            raise struct.error("values extend past the end")
        return values


def byte_order(data: bytes) -> str:
    """Return the prefix of `struct` formats for this TIFF file or Exif block."""
    return "<" if data.startswith(b"II") else ">"


def first_directory(data: bytes) -> int:
    """Return the position of the first directory; raise struct.error where the data is shorter than its header."""
    position: int = struct.unpack_from(byte_order(data) + "I", data, 4)[0]
    return position


def read_directory(data: bytes, position: int, *, whole: bool = True) -> dict[int, Entry]:
    """Return the directory's entries by tag, the last of a repeated one.

    Raises struct.error where the data ends within the directory; with `whole=False` returns the entries before the end.
    """
    order = byte_order(data)
    (count,) = struct.unpack_from(order + "H", data, position)
    if not whole:
        count = min(count, (len(data) - position - 2) // 12)
    entries: dict[int, Entry] = {}
    for start in range(position + 2, position + 2 + 12 * count, 12):
        tag, kind, items, inline = struct.unpack_from(order + "HHI4s", data, start)
        number = None
        if items == 1 and kind in (_SHORT, _LONG, _SIGNED_SHORT, _SIGNED_LONG):
            (number,) = struct.unpack_from(order + ("H" if kind in (_SHORT, _SIGNED_SHORT) else "I"), inline)
        entries[tag] = Entry(_TYPE_BYTES.get(kind, 0) * items, items, number, data[start : start + 12])
    return entries


def orientation_of(entries: dict[int, Entry]) -> int:
    """Return the orientation, 1 to 8; 1, upright, if the directory has none or another value."""
    number = entries[_ORIENTATION].number if _ORIENTATION in entries else None
    return number if number is not None and 1 <= number <= 8 else 1


def exif_orientation(block: bytes) -> int:
    """Return the orientation, 1 to 8, of an Exif block; 1, upright, where it gives none, is broken or empty.

    The block may begin with the mark `Exif\\0\\0` any number of times: some programs write it twice.
    """
    start = 0
    while block.startswith(_MARK, start):
        start += len(_MARK)
    tiff = block[start:]
    if not tiff.startswith(_HEADERS):
        return 1
    try:
        return orientation_of(read_directory(tiff, first_directory(tiff), whole=False))
    except struct.error:
        return 1
