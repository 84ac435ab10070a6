"""Compare the decoding of hostile and damaged images with that of Pillow alone: a fuzz run.

    python -m benchmarks.decoding [--mutations 2000] [--seed 0]

Each hostile file is decoded twice, each time in a separate process: by `vilbert.extractors.decode`, which checks the
structure of the file first, and by Pillow alone, which opens the file, compares its size with the same limits, loads
it, and applies the orientation with `ImageOps.exif_transpose`. The first table has CPU seconds, growth of the peak
memory, and the outcome. Then files of every format are damaged at random (bytes changed, removed, repeated, inserted)
and decoded by both. The second table counts the files that only one of them accepts; "other pixels" differ from those
of the undamaged file. The exit status is 1 if `decode` needs more than `MAX_SECONDS` or `MAX_BYTES` for one file.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import resource
import struct
import sys
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from benchmarks.model import markdown
from tests.extractors.bad_images import (
    chunk,
    encode,
    exif_block,
    grey_tiff,
    insert,
    patch,
    picture,
    png,
    segment,
    tiff,
    webp_on_canvas,
)
from vilbert.extractors.decode import DecodeSettings, ImageError, decode
from vilbert.extractors.images.rgb import to_rgb

LIMITS = DecodeSettings()
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF")
CPU_LIMIT = 60
"""CPU seconds after which a decoder is stopped."""
MAX_SECONDS, MAX_BYTES = 10.0, 32 * LIMITS.max_pixels
Decoder = Callable[[bytes], NDArray[np.uint8]]


def ours(data: bytes) -> NDArray[np.uint8]:
    """Decode with `vilbert.extractors.decode`."""
    return decode(data, LIMITS).pixels


def pillow_alone(data: bytes) -> NDArray[np.uint8]:
    """Decode by Pillow, whose own limits are on: warnings of a decompression bomb are errors."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # notes on damaged metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        with Image.open(io.BytesIO(data), formats=FORMATS) as image:
            if image.width * image.height > LIMITS.max_pixels or max(image.size) > LIMITS.max_side:
                raise ImageError("too_many_pixels")
            image.load()
            return to_rgb(ImageOps.exif_transpose(image))


def hostile_files() -> Iterator[tuple[str, str, bytes]]:
    """Yield (format, description, file), each within the limit on bytes."""
    small = picture()
    files = {name: encode(small, name) for name in FORMATS}
    large = encode(picture(3000, 3000), "JPEG", progressive=True)
    last = large.rindex(b"\xff\xda")
    exif = segment(0xE1, exif_block(4_900, 4_900))
    jpeg, plain, gif = files["JPEG"], files["PNG"], files["GIF"]
    yield "JPEG", "5,000 scans over 9 megapixels", large[:-2] + large[last:-2][:40] * 5000 + b"\xff\xd9"
    yield "JPEG", "2,000,000 empty segments", insert(jpeg, 2, segment(0xE1, b"") * 2_000_000)
    yield "JPEG", "EXIF block of 4,900 overlapping tags", insert(jpeg, 2, exif)
    yield "JPEG", "2,000 EXIF blocks", insert(jpeg, 2, segment(0xE1, b"Exif\0\0II*\0") * 2_000)
    profile = b"".join(segment(0xE2, b"ICC_PROFILE\0" + bytes((i + 1, 200)) + bytes(65_000)) for i in range(200))
    yield "JPEG", "colour profile of 13 MB", insert(jpeg, 2, profile)
    yield "JPEG", "end-of-image marker missing", jpeg[:-2]
    yield "JPEG", "two frame headers", insert(jpeg, jpeg.index(b"\xff\xda"), jpeg[jpeg.index(b"\xff\xc0") :][:19])
    zeros = zlib.compress(bytes(64_000_000), 1)
    yield "PNG", "compressed text of 64 MB", insert(plain, 33, chunk(b"zTXt", b"key\0\0" + zeros))
    yield "PNG", "colour profile of 64 MB", insert(plain, 33, chunk(b"iCCP", b"name\0\0" + zeros))
    yield "PNG", "5,000,000 empty chunks", insert(plain, 33, chunk(b"tEXt", b"") * 5_000_000)
    yield "PNG", "a changed byte of the pixels", _flip(plain, plain.index(b"IDAT") + 40)
    yield "PNG", "pixels that inflate to 1 GB", _long_png()
    yield (
        "GIF",
        "comment of 32 MB in blocks of 255 bytes",
        insert(gif, 13 + 768, b"!\xfe" + b"\xff" * 256 * 125_000 + b"\0"),
    )
    at = gif.index(b",", 13 + 768)
    yield "GIF", "frame of 9000x9000 on a small screen", patch(gif, at + 5, struct.pack("<HH", 9000, 9000))
    yield "GIF", "300,000 frames", gif[:-1] + gif[at:-1] * (40_000_000 // len(gif)) + b";"
    yield "WEBP", "canvas of 16383x16383, small picture", webp_on_canvas(16_383, 16_383)
    lossless = encode(small, "WEBP", lossless=True)
    yield "WEBP", "13000x13000 by its header", patch(lossless, 21, struct.pack("<I", 12_999 | 12_999 << 14))
    block = b"EXIF" + struct.pack("<I", len(exif) - 4) + exif[4:] + b"\0" * (len(exif) % 2)
    yield "WEBP", "EXIF block of 4,900 overlapping tags", webp_on_canvas(48, 32, block, flags=8)
    yield "WEBP", "5,000,000 empty chunks", webp_on_canvas(48, 32, b"ABCD\0\0\0\0" * 5_000_000)
    yield "WEBP", "half of the file", files["WEBP"][: len(files["WEBP"]) // 2]
    rle = patch(patch(encode(picture().convert("P"), "BMP"), 30, b"\1"), 18, struct.pack("<ii", 7000, 7000))
    yield "BMP", "64 MB of run-length codes", rle + b"\1\1" * 32_000_000
    yield "BMP", "4 MB of run-length codes", rle + b"\1\1" * 2_000_000
    yield "BMP", "half of the file", files["BMP"][: len(files["BMP"]) // 2]
    yield "BMP", "header of 60000x60000", patch(files["BMP"], 18, struct.pack("<ii", 60_000, -60_000))
    yield from ((*case,) for case in _tiffs())


def _flip(data: bytes, position: int) -> bytes:
    return patch(data, position, bytes([data[position] ^ 1]))


def _long_png() -> bytes:
    packer = zlib.compressobj(9)
    packed = b"".join(packer.compress(bytes(1 << 20)) for _ in range(1024)) + packer.flush()
    return png(64, 64, 8, 2, b"")[:33] + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def _tiffs() -> Iterator[tuple[str, str, bytes]]:
    count = 500_000
    in_strips = grey_tiff(900, 900, t273=(4, count, 8), t278=(4, 1, 450), t279=(4, count, 8))
    yield (
        "TIFF",
        "500,000 strips, each half of the image",
        tiff(in_strips, struct.pack("<I", 8) * count + bytes(810_000)),
    )
    tiles = grey_tiff(32, 32, t322=(4, 1, 65_520), t323=(4, 1, 65_520), t324=(4, 1, 8), t325=(4, 1, 64))
    del tiles[273], tiles[278], tiles[279]
    yield "TIFF", "tile of 65520x65520 in an image of 32x32", tiff(tiles, bytes(64))
    packed = {**tiles, 259: (3, 1, 8), 322: (4, 1, 40_000), 323: (4, 1, 40_000)}
    yield "TIFF", "deflated tile of 40000x40000", tiff(packed, zlib.compress(bytes(1 << 26)))
    shared = dict.fromkeys(range(33_000, 33_400), (1, 30_000_000, 8))
    yield "TIFF", "400 tags that share 30 MB", tiff(grey_tiff(32, 32) | shared, bytes(30_000_000))
    yield "TIFF", "compressed by LZMA", tiff(grey_tiff(32, 32, t259=(3, 1, 34925)), bytes(1024))
    circle = tiff(grey_tiff(32, 32), bytes(1024))
    yield "TIFF", "pages in a circle", circle[:-4] + circle[4:8]
    yield "TIFF", "half of the file", (whole := encode(picture(), "TIFF"))[: len(whole) // 2]
    jpeg = encode(picture(), "TIFF", compression="jpeg")
    yield "TIFF", "JPEG inside, cut", jpeg[: len(jpeg) // 2]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one decoder did with one file."""

    seconds: float
    """CPU time."""
    grown: int
    """Bytes by which the peak memory of its process grew."""
    outcome: str

    def __str__(self) -> str:
        return f"{self.seconds:.2f} s, {self.grown / 1e6:.0f} MB, {self.outcome}"


def cost(decoder: Decoder, data: bytes) -> Cost:
    """Decode in a forked process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_LIMIT, CPU_LIMIT))
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak of the parent
        before = _peak()
        os.write(writer, f"{outcome_of(decoder, data)[0]}\n{_peak() - before}".encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        said = pipe.read().decode()
    _, status, used = os.wait4(child, 0)
    outcome, _, grown = said.partition("\n") if said else (f"stopped by signal {os.WTERMSIG(status)}", "", "0")
    return Cost(seconds=used.ru_utime + used.ru_stime, grown=int(grown), outcome=outcome)


def _peak() -> int:
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) * 1024


def outcome_of(decoder: Decoder, data: bytes) -> tuple[str, NDArray[np.uint8] | None]:
    """Return what a decoder makes of a file: its size, or why it is refused; and the pixels."""
    try:
        pixels = decoder(data)
    except ImageError as error:
        return f"refused: {error.reason}", None
    except Exception as error:  # Pillow's plugins raise many kinds
        return f"{type(error).__name__}", None
    return f"{pixels.shape[1]}x{pixels.shape[0]}", pixels


def samples() -> dict[str, list[bytes]]:
    """Return well-formed files by format, to be damaged."""
    small, other = picture(), picture(seed=1)
    several = {"save_all": True, "append_images": [other]}
    return {
        "JPEG": [encode(small, "JPEG"), encode(small, "JPEG", progressive=True), encode(small, "MPO", **several)],
        "PNG": [
            encode(small, "PNG"),
            encode(small.convert("P"), "PNG", transparency=3),
            encode(small, "PNG", **several),
        ],
        "GIF": [encode(small, "GIF", transparency=1), encode(small, "GIF", **several)],
        "WEBP": [encode(small, "WEBP"), encode(small, "WEBP", lossless=True), encode(small, "WEBP", **several)],
        "BMP": [encode(small, "BMP"), encode(small.convert("P"), "BMP")],
        "TIFF": [encode(small, "TIFF", compression=it) for it in (None, "tiff_lzw", "tiff_adobe_deflate")],
    }


def damaged(data: bytes, draw: np.random.Generator) -> bytes:
    """Return a file with one to four changes."""
    changed = bytearray(data)
    for _ in range(draw.integers(1, 5)):
        at = int(draw.integers(0, min(len(changed), 200) if draw.random() < 0.5 else len(changed)))
        length = int(draw.integers(1, 9))
        match int(draw.integers(0, 4)):
            case 0:
                changed[at : at + length] = draw.bytes(length)
            case 1:
                del changed[at : at + length]
            case 2:
                changed[at:at] = changed[at : at + length] * int(draw.integers(1, 50))
            case _:
                changed[at] = int(draw.choice((0, 1, 0x7F, 0x80, 0xFF)))
        if len(changed) < 16:
            break
    return bytes(changed)


def fuzz(mutations: int, seed: int) -> list[list[str]]:
    """Return a row a format: how the two decoders differ over damaged files."""
    rows = []
    for format, files in samples().items():
        draw = np.random.default_rng(seed)
        counts: Counter[str] = Counter()
        whole = [pillow_alone(data) for data in files]
        for number in range(mutations):
            data = damaged(files[number % len(files)], draw)
            found = (outcome_of(ours, data)[1], outcome_of(pillow_alone, data)[1])
            counts[_difference(*found, whole[number % len(files)])] += 1
        rows.append([format, *(str(counts[kind]) for kind in KINDS)])
    return rows


KINDS = (
    "both refuse",
    "both accept, same pixels",
    "both accept, different pixels",
    "only Pillow accepts, other pixels",
    "only Pillow accepts, same pixels",
    "only decode accepts",
)


def _difference(walked: NDArray[np.uint8] | None, plain: NDArray[np.uint8] | None, undamaged: NDArray[np.uint8]) -> str:
    if walked is not None:
        if plain is None:
            return "only decode accepts"
        return f"both accept, {'same' if np.array_equal(walked, plain) else 'different'} pixels"
    if plain is None:
        return "both refuse"
    return f"only Pillow accepts, {'same' if np.array_equal(plain, undamaged) else 'other'} pixels"


def main() -> int:
    """Print both tables; return 1 if `decode` exceeds the limit of time or memory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutations", type=int, default=2000, help="damaged files per format")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    for decoder in (ours, pillow_alone):  # loads the plugins before the first measurement
        for files in samples().values():
            decoder(files[0])
    rows, unbounded = [], False
    for format, description, data in hostile_files():
        assert len(data) <= LIMITS.max_bytes, description
        plain, walked = cost(pillow_alone, data), cost(ours, data)
        unbounded |= walked.seconds > MAX_SECONDS or walked.grown > MAX_BYTES
        rows.append([format, description, f"{len(data) / 1e6:.1f}", str(plain), str(walked)])
        print(" | ".join(rows[-1]), file=sys.stderr)
    print(markdown(["format", "file", "MB", "Pillow alone", "vilbert.extractors.decode"], rows))
    print(f"\n{options.mutations} damaged files per format, seed {options.seed}:\n")
    print(markdown(["format", *KINDS], fuzz(options.mutations, options.seed)))
    return int(unbounded)


if __name__ == "__main__":
    sys.exit(main())
