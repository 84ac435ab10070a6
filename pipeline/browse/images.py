"""Photographs for pages: from the shard, the path or the URL of a sample, reduced and encoded again.

The response is always a JPEG that this module encoded, or an error message: bytes of a file are never sent unchanged.
"""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from pathlib import PurePosixPath

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vilbert.extractors.decode import DecodeSettings, ImageError, decode
from vilbert.manifests.uri import ImageReader, is_local, mask_credentials
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.extract.fetching.fetcher import Fetcher
from vilbert.pipeline.extract.fetching.settings import FetchSettings
from vilbert.pipeline.extract.photograph import read_photograph
from vilbert.pipeline.shards.sample import Sample

SIDES = (160, 360, 1280)
"""Pixels of the longer side that a page may ask for."""
KEPT_BYTES = 128 << 20
FIRST_BYTES = 256
IMAGE_SUFFIXES = ("", ".jpg", ".jpeg", ".jpe", ".png", ".gif", ".webp", ".bmp", ".tif", ".tiff")
"""Only of files with these the first bytes are shown: a record may name any file of this machine."""


class Photographs:
    """Reads photographs and caches the most recent ones. Thread-safe."""

    def __init__(self, fetching: FetchSettings) -> None:
        self._fetcher = Fetcher(fetching, ImageReader(), max_bytes=DecodeSettings().max_bytes)
        self._kept: OrderedDict[tuple[object, ...], bytes] = OrderedDict()
        self._kept_bytes = 0
        self._lock = threading.Lock()

    def close(self) -> None:
        """End all downloads."""
        self._fetcher.stop()

    def pixels(self, sample: Sample) -> NDArray[np.uint8]:
        """Return the RGB pixels [H, W, 3] of a sample's photograph; ShardError with the reason if it cannot be read."""
        return read_photograph(sample, self.read)

    def read(self, uri: str) -> bytes:
        """Return the bytes at a uri; ShardError with the reason if they cannot be read."""
        try:
            return self._fetcher.read(uri)
        except ImageError as error:
            hint = "; relative paths start at the folder that `vilbert browse` was started in" if is_local(uri) else ""
            raise ShardError(mask_credentials(f"{uri or 'no uri'}: {error.reason}: {error.detail}{hint}")) from error

    def kept(self, key: tuple[object, ...]) -> bytes | None:
        """Return a cached JPEG."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def keep(self, key: tuple[object, ...], data: bytes) -> bytes:
        """Add a JPEG to the cache, evict the oldest ones if it is full, and return it."""
        with self._lock:
            if key not in self._kept:
                self._kept[key] = data
                self._kept_bytes += len(data)
            while self._kept_bytes > KEPT_BYTES:
                self._kept_bytes -= len(self._kept.popitem(last=False)[1])
        return data

    def preview(self, uri: str) -> Preview | str:
        """Return what can be shown of a file that gave no sample; a text says why nothing can."""
        suffix = PurePosixPath(uri.partition("::")[0].partition("?")[0]).suffix.lower()
        if is_local(uri) and suffix not in IMAGE_SUFFIXES:
            return "not shown: the name is not that of an image"
        try:
            data = self.read(uri)
        except ShardError as error:
            return str(error)
        return Preview(data)


class Preview:
    """The bytes of a file that gave no sample."""

    def __init__(self, data: bytes) -> None:
        self.size = len(data)
        self.picture: NDArray[np.uint8] | None = None
        """RGB pixels [H, W, 3], where some can be decoded."""
        limits = DecodeSettings(allow_truncated=True, min_side=1, max_aspect=1e9)
        try:
            self.picture = decode(data, limits).pixels
        except ImageError as error:
            self.problem = str(error)
        self.first = data[:FIRST_BYTES]

    def lines(self) -> list[str]:
        """Return the first bytes as hexadecimal numbers and text, 16 a line."""
        rows = [self.first[start : start + 16] for start in range(0, len(self.first), 16)]
        return [
            f"{16 * number:04x}  {row.hex(' '):<47}  {''.join(chr(byte) if 32 <= byte < 127 else '.' for byte in row)}"
            for number, row in enumerate(rows)
        ]


def encode_jpeg(pixels: NDArray[np.uint8], side: int) -> bytes:
    """Return pixels as a JPEG whose longer side has at most `side` pixels."""
    image = Image.fromarray(pixels)
    image.thumbnail((side, side), Image.Resampling.BICUBIC, reducing_gap=2.0)
    file = io.BytesIO()
    image.save(file, "JPEG", quality=85)
    return file.getvalue()


def crop(pixels: NDArray[np.uint8], box_xyxy: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Return a box of a photograph, at least one pixel of it."""
    height, width = pixels.shape[:2]
    x1, y1, x2, y2 = np.nan_to_num(box_xyxy, nan=0.0, posinf=0.0, neginf=0.0).tolist()
    left, top = (int(min(max(value, 0), most - 1)) for value, most in ((x1, width), (y1, height)))
    right, bottom = (int(min(max(value, 0), most)) for value, most in ((x2, width), (y2, height)))
    return pixels[top : max(bottom, top + 1), left : max(right, left + 1)]
