import copy
import io
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal
from PIL import Image, ImageFile

from vilbert.extractors.decode import REASONS, DecodedImage, DecodeSettings, ImageError, decode

from .bad_images import BAD, FORMATS, LIMITS, ODD, encode, grey_tiff, picture, tiff

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = {
    "JPEG": encode(picture(), "JPEG"),
    "JPEG progressive": encode(picture(), "JPEG", progressive=True),
    "JPEG CMYK": encode(picture().convert("CMYK"), "JPEG"),
    "MPO": encode(picture(), "MPO", save_all=True, append_images=[picture(seed=1)]),
    "PNG": encode(picture(), "PNG"),
    "PNG palette": encode(picture().convert("P"), "PNG", transparency=3),
    "GIF": encode(picture(), "GIF", transparency=1),
    "GIF animated": encode(picture(), "GIF", save_all=True, append_images=[picture(seed=1)]),
    "WEBP": encode(picture(), "WEBP"),
    "WEBP lossless": encode(picture().convert("RGBA"), "WEBP", lossless=True),
    "WEBP animated": encode(picture(), "WEBP", save_all=True, append_images=[picture(seed=1)]),
    "BMP": encode(picture(), "BMP"),
    "TIFF": encode(picture(), "TIFF"),
    "TIFF LZW": encode(picture(), "TIFF", compression="tiff_lzw"),
    "TIFF deflate": encode(picture(), "TIFF", compression="tiff_adobe_deflate"),
}


def outcome(data: bytes, limits: DecodeSettings = LIMITS) -> DecodedImage | ImageError:
    """Return what decode returns or raises; any other exception fails the test."""
    try:
        image = decode(data, limits)
    except ImageError as error:
        return error
    assert image.pixels.dtype == np.uint8
    assert image.pixels.ndim == 3
    assert image.pixels.shape[2] == 3
    assert image.pixels.flags.c_contiguous
    assert image.pixels.flags.writeable
    return image


class TestRefusals:
    @pytest.mark.parametrize("name", BAD)
    def test_each_bad_image_has_its_reason_soon(self, name: str) -> None:
        data, reason = BAD[name]
        start = time.perf_counter()
        with pytest.raises(ImageError) as caught:
            decode(data, LIMITS)
        assert caught.value.reason == reason, caught.value
        assert time.perf_counter() - start < 3

    def test_details_are_one_short_line_and_the_same_each_time(self) -> None:
        for name, (data, _) in BAD.items():
            first, second = outcome(data), outcome(bytes(bytearray(data)))
            assert isinstance(first, ImageError)
            assert isinstance(second, ImageError)
            assert first.detail == second.detail, name
            assert len(first.detail) < 300, name
            assert first.detail.isprintable(), name
            assert " at 0x" not in first.detail, name

    def test_the_sniffed_type_is_told(self) -> None:
        named = {
            "html.jpg": "html",
            "svg": "svg",
            "pdf": "pdf",
            "avif": "AVIF",
            "git-lfs pointer": "git-lfs",
            "zip": "zip",
        }
        for name, word in named.items():
            with pytest.raises(ImageError, match=word):
                decode(BAD[name][0], LIMITS)

    def test_an_error_survives_a_copy_and_knows_its_reasons(self) -> None:
        error = ImageError("truncated", "half of it")
        assert (copy.copy(error).reason, copy.copy(error).detail) == ("truncated", "half of it")
        with pytest.raises(ValueError, match="no_such_reason"):
            ImageError("no_such_reason")

    def test_limits_include_their_own_value(self) -> None:
        exact = DecodeSettings(max_pixels=48 * 32, max_side=48, min_side=32, max_aspect=1.5)
        assert decode(SAMPLES["PNG"], exact).pixels.shape == (32, 48, 3)
        for option, value, reason in (
            ("max_pixels", 48 * 32 - 1, "too_many_pixels"),
            ("max_side", 47, "too_large_side"),
            ("min_side", 33, "too_small"),
            ("max_aspect", 1.49, "aspect"),
            ("max_bytes", len(SAMPLES["PNG"]) - 1, "too_large"),
        ):
            with pytest.raises(ImageError) as caught:
                decode(SAMPLES["PNG"], DecodeSettings(**{option: value}))
            assert caught.value.reason == reason

    def test_memory_error_is_not_called_corruption(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(_: object) -> None:
            raise MemoryError

        monkeypatch.setattr("vilbert.extractors.decode.to_rgb", full)
        with pytest.raises(ImageError) as caught:
            decode(SAMPLES["PNG"], LIMITS)
        assert caught.value.reason == "out_of_memory"


class TestAnyBytes:
    @pytest.mark.parametrize("name", SAMPLES)
    def test_every_prefix_is_an_image_or_an_image_error(self, name: str) -> None:
        data = SAMPLES[name]
        whole = decode(data, LIMITS).pixels
        for length in range(len(data)):
            result = outcome(data[:length])
            if isinstance(result, DecodedImage):  # cut behind the first picture
                assert_array_equal(result.pixels, whole)
            elif length > 30:
                assert result.reason == "truncated", (length, result)

    @given(
        st.sampled_from(sorted(SAMPLES)),
        st.lists(st.tuples(st.integers(0), st.integers(1, 255)), min_size=1, max_size=8),
    )
    def test_changed_bytes(self, name: str, changes: list[tuple[int, int]]) -> None:
        data = bytearray(SAMPLES[name])
        for position, mask in changes:
            data[position % len(data)] ^= mask
        first, second = outcome(bytes(data)), outcome(bytes(data))
        if isinstance(first, DecodedImage):
            assert isinstance(second, DecodedImage)
            assert_array_equal(first.pixels, second.pixels)
        else:
            assert str(first) == str(second)

    @given(
        st.sampled_from([data[:keep] for data in SAMPLES.values() for keep in (0, 4, 16, 30, 100)]),
        st.binary(max_size=500),
    )
    def test_rubbish_behind_a_true_beginning(self, beginning: bytes, rest: bytes) -> None:
        outcome(beginning + rest)

    @pytest.mark.parametrize("name", [name for name in SAMPLES if name.startswith("PNG")])
    def test_png_checksums_catch_every_changed_bit_of_the_pixels(self, name: str) -> None:
        data = SAMPLES[name]
        start = data.index(b"IDAT") + 4
        for position in range(start, len(data) - 16, 7):
            changed = bytearray(data)
            changed[position] ^= 1 << position % 8
            assert isinstance(outcome(bytes(changed)), ImageError)


class TestOddImages:
    @pytest.mark.parametrize("name", ODD)
    def test_what_is_not_pixels_changes_nothing(self, name: str) -> None:
        odd, clean = ODD[name]
        assert_array_equal(decode(odd, LIMITS).pixels, decode(clean, LIMITS).pixels)

    @pytest.mark.parametrize("name", SAMPLES)
    def test_pixels_are_pillows_own(self, name: str) -> None:
        with Image.open(io.BytesIO(SAMPLES[name])) as image:
            if image.has_transparency_data:
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
            assert_array_equal(decode(SAMPLES[name], LIMITS).pixels, np.asarray(image.convert("RGB")))

    def test_content_names_the_format(self) -> None:
        for name in FORMATS:
            assert decode(SAMPLES[name], LIMITS).format == name
        assert decode(SAMPLES["MPO"], LIMITS).format == "JPEG"

    def test_animations_give_their_first_frame_and_say_so(self) -> None:
        frames = [picture(seed=seed) for seed in range(3)]
        for name in ("GIF", "PNG", "WEBP"):
            options = {"lossless": True} if name == "WEBP" else {}
            data = encode(frames[0], name, save_all=True, append_images=frames[1:], duration=40, **options)
            image = decode(data, LIMITS)
            assert image.frames == 3
            still = decode(encode(frames[0], name, **options), LIMITS)
            assert still.frames == 1
            assert_array_equal(image.pixels, still.pixels)

    def test_pages_of_a_tiff_are_counted_and_a_circle_of_them_ends(self) -> None:
        data = encode(picture(), "TIFF", save_all=True, append_images=[picture(seed=1), picture(seed=2)])
        image = decode(data, LIMITS)
        assert image.frames == 3
        assert_array_equal(image.pixels, np.asarray(picture()))
        circle = tiff(grey_tiff(32, 32), bytes(1024))
        circle = circle[:-4] + circle[4:8]  # the next page is this one
        assert decode(circle, LIMITS).frames == 1


class TestTruncated:
    def test_a_jpeg_may_end_early_where_asked(self) -> None:
        lenient = DecodeSettings(allow_truncated=True)
        data = encode(picture(320, 240), "JPEG", quality=90)
        whole = decode(data, lenient)
        assert not whole.truncated
        half = decode(data[: len(data) // 2], lenient)
        assert half.truncated
        assert half.pixels.shape == whole.pixels.shape
        assert_array_equal(half.pixels[:80], whole.pixels[:80])
        assert (half.pixels[-8:] != whole.pixels[-8:]).any()
        assert not ImageFile.LOAD_TRUNCATED_IMAGES

    @pytest.mark.parametrize("name", ["JPEG", "JPEG progressive", "JPEG CMYK"])
    def test_every_prefix_of_the_picture_is_taken(self, name: str) -> None:
        data = SAMPLES[name]
        scan = data.index(b"\xff\xda")
        for length in range(scan + 2 + data[scan + 3], len(data) - 1):
            assert decode(data[:length], DecodeSettings(allow_truncated=True)).truncated

    def test_other_formats_are_refused_all_the_same(self) -> None:
        for name in ("PNG", "GIF", "WEBP", "BMP", "TIFF"):
            with pytest.raises(ImageError) as caught:
                decode(SAMPLES[name][: len(SAMPLES[name]) // 2], DecodeSettings(allow_truncated=True))
            assert caught.value.reason == "truncated"


class TestThreads:
    def test_the_same_in_eight_threads(self) -> None:
        work = [*SAMPLES.values(), *(data for data, _ in BAD.values() if len(data) < 100_000)] * 4

        def told(data: bytes) -> bytes:
            result = outcome(data)
            return result.pixels.tobytes() if isinstance(result, DecodedImage) else str(result).encode()

        expected = [told(data) for data in work]
        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(told, work)) == expected


CHILD = """
import re, sys
from pathlib import Path
from vilbert.extractors.decode import DecodeSettings, ImageError, decode

def peak():  # of this program alone; getrusage would begin with the peak of the process that started it
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

warm, *files = map(Path, sys.argv[2:])
limits = DecodeSettings(max_pixels=int(sys.argv[1]))
decode(warm.read_bytes(), limits)
before = peak()
for file in files:
    try:
        decode(file.read_bytes(), limits)
    except ImageError:
        pass
print(peak() - before)
"""


def peak_growth(tmp_path: Path, files: dict[str, bytes], max_pixels: int) -> int:
    """Return by how many bytes a fresh process grows as it decodes these files."""
    paths = []
    for number, data in enumerate([SAMPLES["TIFF LZW"], *files.values()]):
        paths.append(tmp_path / str(number))
        paths[-1].write_bytes(data)
    command = [sys.executable, "-c", CHILD, str(max_pixels), *map(str, paths)]
    return int(subprocess.run(command, check=True, capture_output=True, cwd=ROOT).stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
class TestMemory:
    def test_bombs_do_not_fill_it(self, tmp_path: Path) -> None:
        files = {name: data for name, (data, _) in (BAD | ODD).items() if len(data) <= LIMITS.max_bytes}
        largest = max(map(len, files.values()))
        # A file, its cleaned copy, and small pictures; Pillow by itself takes 73 MB for these.
        assert peak_growth(tmp_path, files, LIMITS.max_pixels) < 2 * largest + 16_000_000

    def test_a_pixel_takes_at_most_32_bytes(self, tmp_path: Path) -> None:
        big = picture(1500, 1500).convert("RGBA")
        big.putalpha(128)
        deep = (np.asarray(big.convert("L")).astype(np.float32) * 100).round()
        files = {
            "JPEG": encode(
                big.convert("RGB"), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
            ),
            "CMYK": encode(big.convert("CMYK"), "JPEG"),
            "PNG": encode(big, "PNG", compress_level=1),
            "GIF": encode(big.convert("RGB"), "GIF", transparency=1),
            "WEBP": encode(big, "WEBP", method=0),
            "BMP": encode(big.convert("RGB"), "BMP"),
            "F": encode(Image.fromarray(deep), "TIFF", compression="tiff_lzw"),
            "I;16": encode(Image.fromarray(deep.astype(np.uint16)), "PNG", compress_level=1),
        }
        for data in files.values():
            assert decode(data, DecodeSettings()).pixels.shape == (1500, 1500, 3)
        assert peak_growth(tmp_path, files, 2_250_000) < 32 * 2_250_000 + max(map(len, files.values()))


class TestSettings:
    @pytest.mark.parametrize(
        ("option", "value"),
        [
            ("max_bytes", 0),
            ("max_pixels", 0),
            ("max_pixels", 200_000_000),
            ("max_side", 8),
            ("min_side", 0),
            ("max_aspect", 0.5),
            ("max_aspect", float("nan")),
        ],
    )
    def test_bad_values_are_refused_by_name(self, option: str, value: float) -> None:
        with pytest.raises(ValueError, match=f"--{option.replace('_', '-')} {value}"):
            DecodeSettings(**{option: value})


def test_the_page_lists_each_reason_and_each_flag() -> None:
    page = (ROOT / "docs/decoding.md").read_text()
    listed = re.findall(r"^\| `([a-z0-9_]+)` \|", page, re.MULTILINE)
    assert listed == list(REASONS)
    for field in DecodeSettings.__dataclass_fields__:
        assert f"--{field.replace('_', '-')}" in page, field


def test_photographs() -> None:
    folder = ROOT.parent / "shared/data/coco10/images"
    if not folder.is_dir():
        pytest.skip("the ten photographs are not beside the repository")
    photographs = sorted(folder.iterdir())
    assert photographs
    for path in photographs:
        image = decode(path.read_bytes(), DecodeSettings(exif_orientation=False))
        with Image.open(path) as expected:
            assert_array_equal(image.pixels, np.asarray(expected.convert("RGB")))
