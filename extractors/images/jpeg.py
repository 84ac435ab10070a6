"""JPEG (ITU T.81 annex B): the tables, one frame and its scans, up to the end of the first image.

A telephone's multi-picture file (MPO) or motion photograph is a JPEG with more behind it: its first image is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from vilbert.extractors.images.container import MAX_PARTS, Container
from vilbert.extractors.images.error import ImageError
from vilbert.extractors.images.exif import exif_orientation

_MAX_SCANS = 100  # encoders write about ten; a scan of 20 bytes costs the decoder as much time as a whole one
_CUT, _SOI, _EOI, _SOS, _APP1 = 0, 0xD8, 0xD9, 0xDA, 0xE1
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_DECODED_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC9, 0xCA})  # sequential and progressive; not lossless, hierarchical
# JFIF (APP0) and Adobe (APP14) say how colours are coded; the others are tables.
_KEPT = _DECODED_FRAMES | {0xC4, 0xCC, 0xDB, 0xDD, 0xE0, 0xEE}
# Coded data has no such pair: 0xFF is followed there by 0x00 or by a restart marker, D0 to D7.
_MARKER = re.compile(rb"\xff[\xc0-\xcf\xd8-\xfe]")


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, start, end) of each segment; the last is the end of the image, or where the data are cut."""
    position = 2
    for _ in range(MAX_PARTS):
        match = _MARKER.search(data, position)
        if match is None:
            break
        start = match.start()
        marker = data[start + 1]
        length = 0 if marker in (_SOI, _EOI) else max(2, int.from_bytes(data[start + 2 : start + 4], "big"))
        position = start + 2 + length
        if position > len(data):
            yield _CUT, start, start
            return
        yield marker, start, position
        if marker == _EOI:
            return
    else:
        raise ImageError("corrupt", f"JPEG of more than {MAX_PARTS} segments")
    yield _CUT, len(data), len(data)


def read_jpeg(data: bytes, *, allow_truncated: bool) -> Container:
    """Return the first image of the file; with `allow_truncated` also one that ends within its picture."""
    head, exif = bytearray(b"\xff\xd8"), bytearray()
    size: tuple[int, int] | None = None
    scans = first_scan = 0
    for marker, start, end in _segments(data):
        if marker == _SOS:
            scans += 1
            first_scan = first_scan or start
            if scans > _MAX_SCANS:
                raise ImageError("corrupt", f"JPEG of more than {_MAX_SCANS} scans")
        elif first_scan:
            continue  # tables between scans stay where they are
        elif marker in _FRAMES:
            size = _frame_size(data[start:end])
        elif marker == _APP1 and data.startswith(b"Exif\0\0", start + 4):
            exif += data[start + 10 : end]  # a block of more than 64 KB continues in the next segment
        if marker in _KEPT and not first_scan:
            head += data[start:end]
    # Here `marker` and `end` are of the last segment: the end of the image, or the cut.
    if marker == _CUT and not (allow_truncated and first_scan):
        raise ImageError("truncated", "JPEG without an end-of-image marker")
    if not size or not first_scan:
        raise ImageError("corrupt", "JPEG without a picture")
    return Container(
        format="JPEG",
        width=size[0],
        height=size[1],
        body=bytes(head) + data[first_scan:end] + (b"\xff\xd9" if marker == _CUT else b""),
        orientation=exif_orientation(bytes(exif)),
        truncated=marker == _CUT,
    )


def _frame_size(segment: bytes) -> tuple[int, int]:
    """Return (width, height) of a frame header, refusing variants that libjpeg does not decode to 8 bits."""
    if len(segment) < 10:
        raise ImageError("corrupt", f"JPEG with a frame header of {len(segment)} bytes")
    marker, precision, components = segment[1], segment[4], segment[9]
    if marker not in _DECODED_FRAMES:
        raise ImageError("unsupported_format", "lossless or hierarchical JPEG")
    if precision != 8:
        raise ImageError("unsupported_format", f"{precision}-bit JPEG")
    if components not in (1, 3, 4):
        raise ImageError("unsupported_format", f"JPEG of {components} components")
    return int.from_bytes(segment[7:9], "big"), int.from_bytes(segment[5:7], "big")
