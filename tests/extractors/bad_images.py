"""Images as they come off the web, made here: broken, hostile and merely odd ones.

`BAD` maps a name to a file and the reason for which it is refused under `LIMITS`; `ODD` to a file and the clean one
that it was made from, whose pixels it must have.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image

from vilbert.extractors.decode import DecodeSettings

LIMITS = DecodeSettings(max_pixels=1_000_000, max_side=4_000, max_bytes=16_000_000)
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")


def picture(width: int = 48, height: int = 32, seed: int = 0) -> Image.Image:
    """Return a smooth coloured picture."""
    cells = np.random.default_rng(seed).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)


def encode(image: Image.Image, format: str, **options: Any) -> bytes:
    """Return the image as a file."""
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """Return a PNG chunk."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, depth: int, colour: int, raw: bytes, *extra: bytes) -> bytes:
    """Return a PNG file of these scan lines, each begun by its filter byte; `extra` chunks stand before them."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND", b"")


def webp_on_canvas(width: int, height: int, chunks: bytes = b"", *, flags: int = 0) -> bytes:
    """Return an extended WebP with a picture of 48x32 on a canvas of this size; `chunks` stand behind the picture."""
    canvas = bytes((flags, 0, 0, 0)) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", len(canvas)) + canvas + encode(picture(), "WEBP")[12:] + chunks
    return b"RIFF" + struct.pack("<I", len(body)) + body


def segment(marker: int, body: bytes) -> bytes:
    """Return a JPEG segment."""
    return struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body


def insert(data: bytes, position: int, more: bytes) -> bytes:
    """Return the file with `more` put in at a position."""
    return data[:position] + more + data[position:]


def patch(data: bytes, position: int, more: bytes) -> bytes:
    """Return the file with the bytes at a position replaced."""
    return data[:position] + more + data[position + len(more) :]


def tiff(tags: dict[int, tuple[int, int, int]], pixels: bytes) -> bytes:
    """Return a little-endian TIFF: header, pixels at byte 8, then one directory of (type, count, value)."""
    entries = b"".join(struct.pack("<HHII", tag, *tags[tag]) for tag in sorted(tags))
    return b"II*\0" + struct.pack("<I", 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


def grey_tiff(width: int, height: int, **more: tuple[int, int, int]) -> dict[int, tuple[int, int, int]]:
    """Return the tags of an 8-bit grey image in one strip at byte 8; `t273=…` sets or replaces one."""
    tags = {
        256: (4, 1, width),
        257: (4, 1, height),
        258: (3, 1, 8),
        259: (3, 1, 1),
        262: (3, 1, 1),
        273: (4, 1, 8),
        277: (3, 1, 1),
        278: (4, 1, height),
        279: (4, 1, width * height),
    }
    return tags | {int(name[1:]): value for name, value in more.items()}


def exif_block(entries: int, data_bytes: int) -> bytes:
    """Return an Exif block of so many tags that all point at the same bytes: a reader that copies each is filled."""
    start = 14 + 12 * entries
    tags = b"".join(struct.pack("<HHII", 1000 + tag, 7, data_bytes, start) for tag in range(entries))
    return b"Exif\0\0II*\0" + struct.pack("<IH", 8, entries) + tags + bytes(4 + data_bytes)


def _not_images() -> dict[str, tuple[bytes, str]]:
    html = b"<!DOCTYPE html><html><body>404 not found</body></html>"
    return {
        "empty": (b"", "empty"),
        "html.jpg": (html, "not_an_image"),
        "html with a byte order mark": (b"\xef\xbb\xbf\r\n  " + html.lower(), "not_an_image"),
        "svg": (b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"/>', "not_an_image"),
        "json": (b'{"error": "forbidden"}', "not_an_image"),
        "text": (b"Image not available\n", "not_an_image"),
        "text that begins like a BMP": (b"BMW unveils a new car, and so on and on", "not_an_image"),
        "git-lfs pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00", "not_an_image"),
        "pdf": (b"%PDF-1.7\n%\xe2\xe3", "not_an_image"),
        "gzip": (b"\x1f\x8b\x08\0" + bytes(60), "not_an_image"),
        "zip": (b"PK\x03\x04" + bytes(60), "not_an_image"),
        "video": (b"\0\0\0\x20ftypisom" + bytes(60), "not_an_image"),
        "zeros": (bytes(4096), "not_an_image"),
        "avif": (b"\0\0\0\x20ftypavif" + bytes(60), "unsupported_format"),
        "heif": (b"\0\0\0\x18ftypheic" + bytes(60), "unsupported_format"),
        "psd": (b"8BPS\0\1" + bytes(60), "unsupported_format"),
        "bigtiff": (b"II+\0\x08\0\0\0" + bytes(60), "unsupported_format"),
        "ico": (encode(picture(), "ICO"), "unsupported_format"),
        "eps": (b"%!PS-Adobe-3.0 EPSF-3.0\n", "unsupported_format"),
    }


def _broken() -> dict[str, tuple[bytes, str]]:
    image = picture()
    files = {name: encode(image, name) for name in FORMATS}
    jpeg, gif = files["JPEG"], files["GIF"]
    frame = jpeg.index(b"\xff\xc0")
    scan = jpeg.index(b"\xff\xda")
    frame_segment = jpeg[frame : frame + 19]
    lines = zlib.compress(b"".join(b"\0" + row.tobytes() for row in np.asarray(image)))
    lossless = encode(image, "WEBP", lossless=True)
    cut = {f"half a {name}": (data[: len(data) // 2], "truncated") for name, data in files.items()}
    return cut | {
        "jpeg magic alone": (b"\xff\xd8\xff", "truncated"),
        "jpeg header alone": (jpeg[:scan], "truncated"),
        "jpeg without its end": (jpeg[:-2], "truncated"),
        "jpeg without a scan": (jpeg[:scan] + b"\xff\xd9", "corrupt"),
        "jpeg with two frames": (insert(jpeg, frame, frame_segment), "corrupt"),
        "jpeg of no height": (patch(jpeg, frame + 5, b"\0\0"), "corrupt"),
        "jpeg with rubbish for tables": (patch(jpeg, jpeg.index(b"\xff\xc4") + 4, bytes(60)), "corrupt"),
        "12-bit jpeg": (patch(jpeg, frame + 4, b"\x0c"), "unsupported_format"),
        "lossless jpeg": (patch(jpeg, frame + 1, b"\xc3"), "unsupported_format"),
        "png with a changed pixel byte": (patch(files["PNG"], files["PNG"].index(b"IDAT") + 40, b"!!"), "corrupt"),
        "png with a bad zlib stream": (
            files["PNG"][:33] + chunk(b"IDAT", b"rubbish" * 9) + chunk(b"IEND", b""),
            "corrupt",
        ),
        "png whose zlib stream is cut": (
            files["PNG"][:33] + chunk(b"IDAT", lines[:-40]) + chunk(b"IEND", b""),
            "truncated",
        ),
        "png without its end": (files["PNG"][:-12], "truncated"),
        "png with its header last": (files["PNG"][:8] + chunk(b"IEND", b"") + files["PNG"][8:33], "corrupt"),
        "gif without a frame": (gif[:13] + gif[13 : 13 + 768] + b";", "corrupt"),
        "gif with rubbish for pixels": (patch(gif, gif.index(b",", 13 + 768) + 12, b"\xff" * 200), "corrupt"),
        "webp with rubbish for pixels": (patch(lossless, 25, b"\xff" * (len(lossless) - 25)), "corrupt"),
        "webp with no picture": (b"RIFF\x0c\0\0\0WEBPVP8 \0\0\0\0", "corrupt"),
        "bmp of an unknown depth": (patch(files["BMP"], 28, b"\x07\0"), "unsupported_format"),
        "tiff of an unknown layout": (tiff(grey_tiff(32, 32, t258=(3, 1, 9)), bytes(1024)), "unsupported_format"),
        "tiff in zstandard": (encode(image, "TIFF", compression="zstd"), "unsupported_format"),
        "tiff of one strip where two are wanted": (tiff(grey_tiff(32, 32, t278=(4, 1, 16)), bytes(1024)), "corrupt"),
        "tiff without a size": (tiff({256: (4, 1, 32)}, bytes(64)), "corrupt"),
        "tiff whose width is a fraction": (tiff(grey_tiff(32, 32, t256=(5, 1, 8)), bytes(1024)), "corrupt"),
        "tiff whose strip lies past the end": (tiff(grey_tiff(32, 32, t273=(4, 1, 9999)), bytes(1024)), "truncated"),
    }


def _too_large() -> dict[str, tuple[bytes, str]]:
    image = picture()
    jpeg, gif, bmp = encode(image, "JPEG"), encode(image, "GIF"), encode(image, "BMP")
    frame = jpeg.index(b"\xff\xc0")
    lossless = encode(image, "WEBP", lossless=True)
    descriptor = gif.index(b",", 13 + 768)
    many: dict[str, tuple[bytes, str]] = {
        "jpeg of 3000x3000": (patch(jpeg, frame + 5, struct.pack(">HH", 3000, 3000)), "too_many_pixels"),
        "png of 3000x3000": (png(3000, 3000, 8, 6, b""), "too_many_pixels"),
        "gif with a screen of 3000x3000": (patch(gif, 6, struct.pack("<HH", 3000, 3000)), "too_many_pixels"),
        "gif with a frame of 3000x3000": (
            patch(gif, descriptor + 5, struct.pack("<HH", 3000, 3000)),
            "too_many_pixels",
        ),
        "webp of 3001x3001": (patch(lossless, 21, struct.pack("<I", 3000 | 3000 << 14)), "too_many_pixels"),
        "webp with a canvas of 16384x16384": (webp_on_canvas(1 << 14, 1 << 14), "too_many_pixels"),
        "bmp of 3000x3000": (patch(bmp, 18, struct.pack("<ii", 3000, -3000)), "too_many_pixels"),
        "tiff of 3000x3000": (tiff(grey_tiff(3000, 3000, t279=(4, 1, 64)), bytes(64)), "too_many_pixels"),
        "jpeg of 65535x65535": (patch(jpeg, frame + 5, b"\xff\xff\xff\xff"), "too_large_side"),
        "png of 2147483647x16": (png(2**31 - 1, 16, 8, 6, b""), "too_large_side"),
        "tiff of 4294967295x4294967295": (tiff(grey_tiff(2**32 - 1, 2**32 - 1, t279=(4, 1, 9)), b""), "too_large_side"),
        "one pixel": (encode(picture(1, 1), "PNG"), "too_small"),
        "a hair": (encode(picture(15, 100), "PNG"), "too_small"),
        "a banner": (encode(picture(400, 16), "PNG"), "aspect"),
        "too many bytes": (bytes(LIMITS.max_bytes + 1), "too_large"),
    }
    return many


def _hostile() -> dict[str, tuple[bytes, str]]:
    jpeg = encode(picture(), "JPEG", progressive=True)
    plain = encode(picture(), "PNG")
    last_scan = jpeg.rindex(b"\xff\xda")
    strips = struct.pack("<I", 8) * 60_000
    in_strips = grey_tiff(900, 900, t273=(4, 60_000, 8), t278=(4, 1, 450), t279=(4, 60_000, 8))
    tiles = grey_tiff(32, 32, t322=(4, 1, 65_520), t323=(4, 1, 65_520), t324=(4, 1, 8), t325=(4, 1, 64))
    del tiles[273], tiles[278], tiles[279]
    shared = dict.fromkeys((258, 320, 338, 339, 347, 529, 530, 532), (1, 900000, 8))
    run_length = encode(picture().convert("P"), "BMP") + bytes(1 << 22)
    return {
        "jpeg of 5000 scans": (jpeg[:last_scan] + jpeg[last_scan:-2] * 5000 + b"\xff\xd9", "corrupt"),
        "jpeg of 200000 segments": (insert(jpeg, 2, segment(0xE1, b"") * 200_000), "corrupt"),
        "png of 200000 chunks": (insert(plain, 33, chunk(b"tEXt", b"") * 200_000), "corrupt"),
        "tiff of 60000 strips, each half of it": (tiff(in_strips, strips + bytes(810_000)), "corrupt"),
        "tiff tile of 4 gigabytes": (tiff(tiles, bytes(64)), "corrupt"),
        "tiff whose tags share a megabyte": (tiff(grey_tiff(32, 32) | shared, bytes(1_000_000)), "truncated"),
        "tiff of lzma": (tiff(grey_tiff(32, 32, t259=(3, 1, 34925)), bytes(1024)), "unsupported_format"),
        "large run-length coded bmp": (patch(run_length, 30, b"\1"), "unsupported_format"),
    }


def _bad() -> dict[str, tuple[bytes, str]]:
    makers: tuple[Callable[[], dict[str, tuple[bytes, str]]], ...] = (_not_images, _broken, _too_large, _hostile)
    return {name: case for make in makers for name, case in make().items()}


def _odd() -> dict[str, tuple[bytes, bytes]]:
    """Return name -> (odd file, clean file of the same pixels)."""
    image, other = picture(), picture(seed=1)
    jpeg, plain, gif = encode(image, "JPEG"), encode(image, "PNG"), encode(image, "GIF")
    exif = segment(0xE1, exif_block(4_900, 4_900))
    profile = b"".join(segment(0xE2, b"ICC_PROFILE\0" + bytes((i, 200)) + bytes(65_000)) for i in range(200))
    zeros = zlib.compress(bytes(64_000_000), 1)
    return {
        "jpeg with photographs behind it (MPO)": (encode(image, "MPO", save_all=True, append_images=[other]), jpeg),
        "jpeg with a video behind it": (jpeg + b"\0\0\0\x20ftypisom" + bytes(range(256)) * 2000, jpeg),
        "jpeg with an EXIF block of tags that overlap": (insert(jpeg, 2, exif), jpeg),
        "jpeg with 2000 EXIF blocks": (insert(jpeg, 2, segment(0xE1, b"Exif\0\0II*\0") * 2000), jpeg),
        "jpeg with a colour profile of 13 MB": (insert(jpeg, 2, profile), jpeg),
        "jpeg with rubbish between segments": (insert(jpeg, 20, b"\0\1\2" * 50 + b"\xff" * 50), jpeg),
        "png with a text of 64 MB": (insert(plain, 33, chunk(b"zTXt", b"key\0\0" + zeros)), plain),
        "png with an international text of 64 MB": (insert(plain, 33, chunk(b"iTXt", b"k\0\1\0\0\0" + zeros)), plain),
        "png with a colour profile of 64 MB": (insert(plain, 33, chunk(b"iCCP", b"name\0\0" + zeros)), plain),
        "png with a broken colour profile": (insert(plain, 33, chunk(b"iCCP", b"name\0\0rubbish")), plain),
        "png with something behind it": (plain + b"<!-- cached -->", plain),
        "gif with rubbish behind its frame": (gif[:-1] + b"\x77" * 50, gif),
        "gif with a comment of 500 KB": (insert(gif, 13 + 768, b"!\xfe" + b"\xff" * 256 * 2000 + b"\0"), gif),
        "gif without its end": (gif[:-1], gif),
    }


BAD = _bad()
ODD = _odd()
