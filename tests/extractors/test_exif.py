"""Exif orientation in every place and form in which files hold it, compared with Pillow's `exif_transpose`."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from vilbert.extractors.decode import decode
from vilbert.extractors.images.exif import exif_orientation

from .bad_images import LIMITS, chunk, encode, insert, picture, segment

MARK = b"Exif\0\0"
PICTURE = picture().resize((48, 32))
FILES = {name: encode(PICTURE, name, **({"lossless": True} if name == "WEBP" else {})) for name in ("PNG", "WEBP")}
FILES["JPEG"] = encode(PICTURE, "JPEG")
FILES["MPO"] = encode(PICTURE, "MPO", save_all=True, append_images=[picture(seed=1)])


def directory(
    orientation: int, *, order: str = "<", kind: int = 3, header: bytes | None = None, tags_told: int = 2
) -> bytes:
    """Return a TIFF block with an unrelated tag and the orientation."""
    value = struct.pack(order + "HH", orientation, 0) if kind in (3, 8) else struct.pack(order + "I", orientation)
    magic = header or {"<": b"II*\0", ">": b"MM\0*"}[order]
    entries = struct.pack(order + "HHIHH", 256, 3, 1, 48, 0) + struct.pack(order + "HHI", 274, kind, 1) + value
    return magic + struct.pack(order + "IH", 8, tags_told) + entries + (bytes(4) if tags_told == 2 else b"")


def webp_with(block: bytes) -> bytes:
    """Return the extended form of the WebP file, with an EXIF chunk behind the picture."""
    picture_chunk = FILES["WEBP"][12:]
    size = struct.pack("<I", PICTURE.width - 1)[:3] + struct.pack("<I", PICTURE.height - 1)[:3]
    head = b"VP8X" + struct.pack("<I", 10) + b"\x08\0\0\0" + size
    exif = b"EXIF" + struct.pack("<I", len(block)) + block + bytes(len(block) % 2)
    body = b"WEBP" + head + picture_chunk + exif
    return b"RIFF" + struct.pack("<I", len(body)) + body


def raw_profile(block: bytes) -> bytes:
    """Return the text in which ImageMagick keeps an Exif block in a PNG."""
    digits = block.hex()
    lines = [digits[at : at + 72] for at in range(0, len(digits), 72)]
    return f"\nexif\n{len(block):8}\n{chr(10).join(lines)}\n".encode()


def profile_chunk(kind: bytes, block: bytes) -> bytes:
    text = raw_profile(block)
    return chunk(kind, b"Raw profile type exif\0" + (b"\0" + zlib.compress(text) if kind == b"zTXt" else text))


PLACES = {
    "JPEG": lambda block: insert(FILES["JPEG"], 2, segment(0xE1, block)),
    "JPEG after XMP": lambda block: insert(
        FILES["JPEG"], 2, segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0<x/>") + segment(0xE1, block)
    ),
    "JPEG in two segments": lambda block: insert(
        FILES["JPEG"], 2, segment(0xE1, block[:-12]) + segment(0xE1, MARK + block[-12:])
    ),
    "MPO": lambda block: insert(FILES["MPO"], 2, segment(0xE1, block)),
    "PNG": lambda block: insert(FILES["PNG"], 33, chunk(b"eXIf", block)),
    "PNG behind the pixels": lambda block: insert(FILES["PNG"], len(FILES["PNG"]) - 12, chunk(b"eXIf", block)),
    "PNG tEXt": lambda block: insert(FILES["PNG"], 33, profile_chunk(b"tEXt", block)),
    "PNG zTXt": lambda block: insert(FILES["PNG"], 33, profile_chunk(b"zTXt", block)),
    "WEBP": webp_with,
}


def as_pillow_turns(data: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def assert_as_pillow(data: bytes, orientation: int, *, oracle: bytes | None = None) -> None:
    """Assert that the picture is turned as Pillow turns it (or the file `oracle`), and turned at all."""
    decoded, expected = decode(data, LIMITS), as_pillow_turns(oracle or data)
    assert decoded.transposed == (orientation != 1)
    assert decoded.pixels.shape == expected.shape
    assert np.array_equal(decoded.pixels, expected)


@pytest.mark.parametrize("marks", [0, 1, 2], ids=["no mark", "one mark", "two marks"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_place_and_number_of_marks(place: str, marks: int, orientation: int) -> None:
    if marks == 0 and place.startswith(("JPEG", "MPO")):
        marks = 1  # without its mark a segment is no Exif
    # Pillow reads two marks, and puts one before the chunk of a PNG, so it gives up on two there.
    oracle = PLACES[place](MARK + directory(orientation))
    assert_as_pillow(PLACES[place](MARK * marks + directory(orientation)), orientation, oracle=oracle)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4, 8, 9], ids=["short", "long", "signed short", "signed long"])
def test_every_integer_type_and_byte_order(orientation: int, order: str, kind: int) -> None:
    assert_as_pillow(PLACES["PNG"](directory(orientation, order=order, kind=kind)), orientation)


@pytest.mark.parametrize(("order", "header"), [("<", b"II\0*"), (">", b"MM*\0")])
def test_a_swapped_magic_number_is_read(order: str, header: bytes) -> None:
    assert_as_pillow(PLACES["JPEG"](MARK + directory(6, order=order, header=header)), 6)


def test_a_directory_that_is_cut_behind_the_orientation_is_read() -> None:
    assert exif_orientation(directory(6, tags_told=900)) == 6
    assert_as_pillow(PLACES["WEBP"](directory(6, tags_told=900)), 6)


def test_the_chunk_goes_before_the_text_profile() -> None:
    data = insert(PLACES["PNG"](directory(6)), 33, profile_chunk(b"zTXt", directory(3)))
    assert_as_pillow(data, 6)


@pytest.mark.parametrize("text", [b"", b"\0", b"\0\xff\xff", b"\1" + zlib.compress(b"\n\n\nzz")])
def test_a_broken_text_profile_is_no_orientation(text: bytes) -> None:
    data = insert(FILES["PNG"], 33, chunk(b"zTXt", b"Raw profile type exif\0" + text))
    assert not decode(data, LIMITS).transposed


def test_a_profile_of_a_gigabyte_costs_no_memory_and_a_million_marks_no_time() -> None:
    bomb = zlib.compressobj(9)
    packed = b"".join(bomb.compress(b"\n\n\n" + b"0" * (1 << 20)) for _ in range(64)) + bomb.flush()
    data = insert(FILES["PNG"], 33, chunk(b"zTXt", b"Raw profile type exif\0\0" + packed) * 50)
    assert not decode(data, LIMITS).transposed
    assert exif_orientation(MARK * 1_000_000 + directory(6)) == 6
