"""Bytes to RGB pixels: a pure function of the bytes and the settings, safe in threads, the same on every run.

This is the one place where any exception is caught: whatever a broken file makes a decoder raise becomes an ImageError
with a reason code. Limits are read from the file's header before a decoder runs, so memory is bounded by --max-pixels.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

# The decoders by name: PIL.Image.open would import all of Pillow's, and judge sizes by a global.
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.Image import DecompressionBombError
from PIL.ImageFile import ImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

from vilbert.extractors.images.container import Container
from vilbert.extractors.images.error import REASONS, ImageError
from vilbert.extractors.images.read import read_container
from vilbert.extractors.images.rgb import to_rgb, upright
from vilbert.extractors.settings import DecodeSettings

__all__ = ["REASONS", "DecodeSettings", "DecodedImage", "ImageError", "decode"]

_DECODERS: dict[str, type[ImageFile]] = {
    "JPEG": JpegImageFile,
    "PNG": PngImageFile,
    "GIF": GifImageFile,
    "WEBP": WebPImageFile,
    "BMP": BmpImageFile,
    "TIFF": TiffImageFile,
}


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class DecodedImage:
    """The first frame of an image file."""

    pixels: NDArray[np.uint8]
    """[H, W, 3] RGB, C-contiguous, the caller's own."""
    format: str
    """JPEG, PNG, GIF, WEBP, BMP or TIFF, by content."""
    mode: str
    """Pillow's name of the pixels as stored: 1, L, LA, P, RGB, RGBA, CMYK, I;16, F, …"""
    frames: int
    """Frames of an animation or pages of a TIFF; 1 for a still image."""
    transposed: bool
    """Whether the pixels were turned or mirrored after the EXIF orientation."""
    truncated: bool
    """Whether the file ends within its picture, which `allow_truncated` lets pass."""


def decode(data: bytes, settings: DecodeSettings, *, apply_orientation: bool = True) -> DecodedImage:
    """Return the image's pixels, upright, its alpha composited on white.

    apply_orientation: False keeps pixels as stored whatever the settings say, for boxes given in stored coordinates.
    Raises ImageError, and nothing else.
    """
    try:
        if len(data) > settings.max_bytes:
            raise ImageError("too_large", f"{len(data)} bytes, more than {settings.max_bytes}")
        container = read_container(data, allow_truncated=settings.allow_truncated)
        _check_size(container.width, container.height, settings)
        pixels, mode = _pixels(container)
    except ImageError:
        raise
    except MemoryError:
        raise ImageError("out_of_memory", "while decoding") from None
    except Exception as error:  # a decoder at a broken file: OSError, SyntaxError, ValueError, zlib.error, and so on
        raise _explain(error) from error
    turn = container.orientation if settings.exif_orientation and apply_orientation else 1
    return DecodedImage(
        pixels=upright(pixels, turn),
        format=container.format,
        mode=mode,
        frames=container.frames,
        transposed=turn != 1,
        truncated=container.truncated,
    )


def _check_size(width: int, height: int, settings: DecodeSettings) -> None:
    size = f"{width}x{height}"
    short, long = sorted((width, height))
    if short < 1:
        raise ImageError("corrupt", f"{size} pixels")
    if long > settings.max_side:
        raise ImageError("too_large_side", f"{size}, a side of more than {settings.max_side}")
    if width * height > settings.max_pixels:
        raise ImageError("too_many_pixels", f"{size}, more than {settings.max_pixels}")
    if short < settings.min_side:
        raise ImageError("too_small", f"{size}, a side of less than {settings.min_side}")
    if long > settings.max_aspect * short:
        raise ImageError("aspect", f"{size}, more than {settings.max_aspect:g} to 1")


def _pixels(container: Container) -> tuple[NDArray[np.uint8], str]:
    """Return the pixels as stored, and their mode."""
    with _DECODERS[container.format](io.BytesIO(container.body)) as image:
        if image.size != (container.width, container.height):
            raise ImageError("corrupt", f"{container.format} that gives two sizes")
        mode = image.mode  # a GIF's changes as it loads
        image.load()
        return to_rgb(image), mode


def _explain(error: Exception) -> ImageError:
    """Return the error with a reason; its detail is free of addresses, so that failure files are reproducible."""
    message = re.sub(r" ?<[^>]* at 0x[0-9a-f]+>", "", " ".join(str(error).split()))[:200]
    lower = message.lower()
    if isinstance(error, DecompressionBombError):
        reason = "too_many_pixels"
    elif "truncated" in lower:
        reason = "truncated"
    else:
        reason = "unsupported_format" if "unsupported" in lower or "unknown pixel mode" in lower else "corrupt"
    return ImageError(reason, f"{type(error).__name__}: {message}" if message else type(error).__name__)
