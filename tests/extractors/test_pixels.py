"""Colours of every mode, and the eight orientations."""

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from PIL import Image

from vilbert.extractors.decode import DecodeSettings, decode
from vilbert.extractors.images.rgb import to_rgb

from .bad_images import LIMITS, chunk, encode, picture, png

SMALL = DecodeSettings(min_side=1)


def grey(*values: float) -> np.ndarray:
    """Return a [1, N, 3] row of greys."""
    return np.repeat(np.array(values, dtype=np.uint8)[None, :, None], 3, axis=2)


def trns(*values: int) -> bytes:
    """Return a PNG chunk that names a transparent colour."""
    return chunk(b"tRNS", np.array(values, dtype=">u2").tobytes())


def rows16(*values: int) -> bytes:
    """Return a PNG scan line of 16-bit samples."""
    return b"\0" + np.array(values, dtype=">u2").tobytes()


# Each file has one row of pixels, whose colours follow.
MODES = {
    "1-bit grey": (png(2, 1, 1, 0, b"\0\x40"), "1", grey(0, 255)),
    "2-bit grey": (png(4, 1, 2, 0, b"\0\x1b"), "L", grey(0, 85, 170, 255)),
    "8-bit grey": (png(3, 1, 8, 0, b"\0\0\x7f\xff"), "L", grey(0, 127, 255)),
    "8-bit grey, one value transparent": (png(2, 1, 8, 0, b"\0\x10\x20", trns(0x10)), "L", grey(255, 0x20)),
    "grey and alpha": (png(3, 1, 8, 4, b"\0\x64\xff\x64\0\x64\x80"), "LA", grey(100, 255, 177)),
    # 16-bit: 0, half of 257 rounded down and up, 257, and the ends that Pillow would clip
    "16-bit grey": (png(6, 1, 16, 0, rows16(0, 128, 129, 257, 32768, 65535)), "I;16", grey(0, 0, 1, 1, 128, 255)),
    "16-bit grey, one value transparent": (
        png(3, 1, 16, 0, rows16(0, 257, 258), trns(257)),
        "I;16",
        grey(0, 255, 1),
    ),
    "16-bit colour": (png(1, 1, 16, 2, rows16(0xABCD, 0x1234, 0)), "RGB", np.array([[[0xAB, 0x12, 0]]])),
    "colour, one transparent": (
        png(2, 1, 8, 2, b"\0\1\2\3\4\5\6", trns(1, 2, 3)),
        "RGB",
        np.array([[[255, 255, 255], [4, 5, 6]]]),
    ),
    "colour and alpha": (
        png(2, 1, 8, 6, b"\0\xff\0\0\0\xff\0\0\x80"),
        "RGBA",
        np.array([[[255, 255, 255], [255, 127, 127]]]),
    ),
    "palette": (
        png(2, 1, 8, 3, b"\0\1\0", chunk(b"PLTE", bytes([9, 8, 7, 50, 60, 70]))),
        "P",
        np.array([[[50, 60, 70], [9, 8, 7]]]),
    ),
    "palette with alpha": (
        png(2, 1, 8, 3, b"\0\1\0", chunk(b"PLTE", bytes([9, 8, 7, 50, 60, 70])), chunk(b"tRNS", b"\0\xff")),
        "P",
        np.array([[[50, 60, 70], [255, 255, 255]]]),
    ),
    "big-endian 16-bit TIFF": (
        encode(Image.frombytes("I;16B", (3, 1), rows16(0, 257, 65535)[1:]), "TIFF"),
        "I;16B",
        grey(0, 1, 255),
    ),
    "32-bit integers": (
        encode(Image.fromarray(np.array([[-1000, 0, 1000]], dtype=np.int32)), "TIFF"),
        "I",
        grey(0, 128, 255),
    ),
    "floats": (encode(Image.fromarray(np.array([[0, 0.25, 1]], dtype=np.float32)), "TIFF"), "F", grey(0, 64, 255)),
    "floats, not all finite": (
        encode(Image.fromarray(np.array([[np.nan, np.inf, -3e38, 3e38, -np.inf]], dtype=np.float32)), "TIFF"),
        "F",
        grey(0, 0, 0, 255, 0),
    ),
    "floats of one value": (encode(Image.new("F", (2, 1), 7.5), "TIFF"), "F", grey(0, 0)),
    "CMYK TIFF": (encode(Image.new("CMYK", (1, 1), (0, 255, 255, 0)), "TIFF"), "CMYK", np.array([[[255, 0, 0]]])),
    "lossless WebP and alpha": (
        encode(Image.new("RGBA", (1, 1), (255, 0, 0, 0)), "WEBP", lossless=True, exact=True),
        "RGBA",
        grey(255),
    ),
}


class TestModes:
    @pytest.mark.parametrize("name", MODES)
    def test_colours(self, name: str) -> None:
        data, mode, expected = MODES[name]
        image = decode(data, SMALL)
        assert image.mode == mode
        assert np.abs(image.pixels.astype(int) - expected).max() <= 1, image.pixels

    def test_gif_transparency_is_white_and_the_rest_keeps_its_colour(self) -> None:
        palette = Image.new("P", (2, 1))
        palette.putpalette([10, 20, 30, 40, 50, 60])
        palette.putpixel((1, 0), 1)
        image = decode(encode(palette, "GIF", transparency=0), SMALL)
        assert image.mode == "P"
        assert image.pixels.tolist() == [[[255, 255, 255], [40, 50, 60]]]

    def test_cielab_grey_is_grey(self) -> None:
        # L* 53.6 of 100 is the grey of sRGB 128; Pillow's conversion rounds to within a few.
        image = decode(encode(Image.new("LAB", (1, 1), (137, 128, 128)), "TIFF"), SMALL)
        assert image.mode == "LAB"
        assert np.abs(image.pixels.astype(int) - 128).max() <= 4

    @pytest.mark.parametrize("mode", ["La", "PA", "RGBa", "RGBX", "HSV", "YCbCr"])
    def test_modes_that_no_encoder_here_writes(self, mode: str) -> None:
        values = {
            "La": (50, 128),
            "PA": (3, 0),
            "RGBa": (128, 0, 0, 128),
            "RGBX": (1, 2, 3, 0),
            "HSV": (0, 255, 255),
            "YCbCr": (76, 85, 255),
        }
        expected = {
            "La": [177] * 3,
            "PA": [255] * 3,
            "RGBa": [255, 127, 127],
            "RGBX": [1, 2, 3],
            "HSV": [255, 0, 0],
            "YCbCr": [254, 0, 0],
        }
        image = Image.new(mode, (2, 3), values[mode])
        pixels = to_rgb(image)
        assert pixels.shape == (3, 2, 3)
        assert np.abs(pixels.astype(int) - expected[mode]).max() <= 1, pixels

    @pytest.mark.parametrize("adobe", [True, False])
    def test_cmyk_jpeg_is_not_inverted(self, adobe: bool) -> None:
        data = encode(Image.new("CMYK", (32, 32), (0, 255, 255, 0)), "JPEG", quality=95)
        marker = data.index(b"\xff\xee")
        assert data[marker + 4 : marker + 9] == b"Adobe"
        if not adobe:
            data = data[:marker] + data[marker + 16 :]
        image = decode(data, LIMITS)
        assert image.mode == "CMYK"
        assert np.abs(image.pixels.astype(int) - [255, 0, 0]).max() <= 3

    def test_ycck_jpeg(self) -> None:
        # Adobe stores inverted CMYK, here that of red, (255, 0, 0, 255), and codes its first three as the YCbCr of
        # their complement, cyan: (179, 171, 0). Pillow inverts what it writes, so the picture is given inverted again.
        data = encode(Image.new("CMYK", (32, 32), (255 - 179, 255 - 171, 255, 0)), "JPEG", quality=95)
        marker = data.index(b"\xff\xee")
        data = data[: marker + 15] + b"\2" + data[marker + 16 :]
        assert np.abs(decode(data, LIMITS).pixels.astype(int) - [255, 0, 0]).max() <= 4


# How the upright picture ABC over DEF is stored under each orientation (Exif 3.0, 4.6.5.1.6).
STORED = {
    1: "ABC DEF",
    2: "CBA FED",
    3: "FED CBA",
    4: "DEF ABC",
    5: "AD BE CF",
    6: "CF BE AD",
    7: "FC EB DA",
    8: "DA EB FC",
}
COLOURS = {letter: (40 * i, 255 - 40 * i, (97 * i) % 256) for i, letter in enumerate("ABCDEF")}


def blocks(letters: str) -> np.ndarray:
    """Return a picture with a 16x16 block of each letter's colour."""
    small = np.array([[COLOURS[letter] for letter in row] for row in letters.split()], dtype=np.uint8)
    return small.repeat(16, axis=0).repeat(16, axis=1)


def oriented(name: str, stored: np.ndarray, orientation: int) -> bytes:
    """Return a file with these stored pixels and this EXIF orientation."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(stored)
    match name:
        case "TIFF":
            return encode(image, name, tiffinfo={0x0112: orientation})
        case "WEBP":
            return encode(image, name, lossless=True, exif=exif)
        case "JPEG":
            return encode(image, name, quality=100, subsampling=0, exif=exif)
    return encode(image, name, exif=exif)


class TestOrientation:
    @pytest.mark.parametrize("name", ["JPEG", "PNG", "WEBP", "TIFF"])
    @pytest.mark.parametrize("orientation", STORED)
    def test_upright_and_as_stored(self, name: str, orientation: int) -> None:
        stored = blocks(STORED[orientation])
        data = oriented(name, stored, orientation)
        tolerance = 4 if name == "JPEG" else 0
        turned = decode(data, LIMITS)
        assert turned.pixels.shape == blocks("ABC DEF").shape
        assert np.abs(turned.pixels.astype(int) - blocks("ABC DEF")).max() <= tolerance
        assert turned.transposed == (orientation != 1)
        for image in (
            decode(data, LIMITS, apply_orientation=False),
            decode(data, DecodeSettings(exif_orientation=False)),
        ):
            assert np.abs(image.pixels.astype(int) - stored).max() <= tolerance
            assert not image.transposed

    @pytest.mark.parametrize(
        "block",
        [
            b"",
            b"rubbish",
            b"II*\0",
            b"II*\0\xff\xff\xff\xff",
            b"II*\0\x08\0\0\0\xff\xff",
            b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0\x09\0\0\0",  # orientation 9
            b"II*\0\x08\0\0\0\x01\0\x12\x01\x05\0\x01\0\0\0\x06\0\0\0",  # a fraction
            b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x02\0\0\0\x06\0\x06\0",  # two of them
        ],
    )
    def test_a_broken_exif_block_is_no_orientation(self, block: bytes) -> None:
        data = encode(picture(), "JPEG")
        payload = b"Exif\0\0" + block
        broken = data[:2] + b"\xff\xe1" + (len(payload) + 2).to_bytes(2, "big") + payload + data[2:]
        image = decode(broken, LIMITS)
        assert not image.transposed
        assert_array_equal(image.pixels, decode(data, LIMITS).pixels)
