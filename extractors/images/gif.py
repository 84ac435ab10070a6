"""GIF (89a): the screen, the first frame and its transparent colour."""

from __future__ import annotations

import struct

from vilbert.extractors.images.container import MAX_PARTS, Container
from vilbert.extractors.images.error import ImageError

_EXTENSION, _IMAGE, _GRAPHIC_CONTROL = 0x21, 0x2C, 0xF9


def _colour_bytes(flags: int) -> int:
    """Return the size of the colour table that these flags announce."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _after_blocks(data: bytes, position: int) -> int:
    while length := data[position]:
        position += length + 1
    return position + 1


def read_gif(data: bytes) -> Container:
    """Return the first frame; a file that is cut or damaged behind it is whole enough."""
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    position = 13 + _colour_bytes(flags)
    body, control, frames = bytearray(data[:position]), b"", 0
    try:
        for _ in range(MAX_PARTS):
            start, kind = position, data[position]
            if kind == _EXTENSION:
                position = _after_blocks(data, start + 2)
                if data[start + 1] == _GRAPHIC_CONTROL:  # the transparent colour of the frame that follows
                    control = data[start:position]
            elif kind == _IMAGE:
                left, top, columns, rows, flags = struct.unpack_from("<HHHHB", data, start + 1)
                position = _after_blocks(data, start + 11 + _colour_bytes(flags))
                if not frames:
                    body += control + data[start:position] + b";"
                    # A frame may be larger than the screen that it is drawn on: Pillow then grows the screen.
                    width, height = max(width, left + columns), max(height, top + rows)
                frames += 1
            elif kind == 0:  # some encoders end a block twice
                position += 1
            else:  # the end, or rubbish behind the last frame
                break
    except (IndexError, struct.error):
        if not frames:
            raise ImageError("truncated", "GIF ends within its first frame") from None
    if not frames:
        raise ImageError("corrupt", "GIF has no frame")
    return Container(format="GIF", width=width, height=height, body=bytes(body), frames=frames)
