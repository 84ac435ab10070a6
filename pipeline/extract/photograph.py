"""Read the image of a sample again, by the rules of `vilbert extract`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.shards.sample import Sample


def read_photograph(sample: Sample, read: Callable[[str], bytes] | None = None) -> NDArray[np.uint8]:
    """Return the [H, W, 3] RGB pixels that a sample's boxes lie on, turned as they were for the detector.

    read: returns the bytes behind a uri, or raises ShardError; by default `fetch`. Raises ShardError where the
    photograph cannot be read, or is not the sample's.
    """
    from vilbert.extractors.decode import DecodeSettings, ImageError, decode

    uri = str(sample.meta.get("uri", ""))
    data = (read or fetch)(uri) if sample.image is None else sample.image
    if sample.meta.get("sha256") not in (None, hashlib.sha256(data).hexdigest()):
        raise ShardError(f"{uri}: is not the file that the regions were extracted from: its sha256 differs")
    limits = DecodeSettings(allow_truncated=True, min_side=1, max_aspect=1e9)
    try:
        pixels = decode(data, limits, apply_orientation=bool(sample.meta.get("transposed", True))).pixels
    except ImageError as error:
        raise ShardError(f"{uri}: cannot be decoded ({error})") from error
    if pixels.shape[:2] != (sample.regions.height, sample.regions.width):
        size = f"{sample.regions.width}x{sample.regions.height}"
        raise ShardError(f"{uri}: is {pixels.shape[1]}x{pixels.shape[0]}, the regions belong to a photograph of {size}")
    return pixels


def fetch(uri: str) -> bytes:
    """Return the bytes behind a record's uri; raise ShardError if they cannot be read."""
    from vilbert.extractors.decode import DecodeSettings, ImageError
    from vilbert.manifests.uri import ImageReader, mask_credentials
    from vilbert.pipeline.extract.fetching.fetcher import Fetcher
    from vilbert.pipeline.extract.fetching.settings import FetchSettings

    # A data set can name any URL: it is read by the rules of `vilbert extract`, which leave private addresses alone.
    fetcher = Fetcher(FetchSettings(), ImageReader(), max_bytes=DecodeSettings().max_bytes)
    try:
        return fetcher.read(uri)
    except ImageError as error:
        what = mask_credentials(f"{uri!r} ({error.reason}: {error.detail})")
        raise ShardError(
            f"cannot read the photograph {what}; --image needs it where it was "
            "for `vilbert extract`; relative paths start at the current folder"
        ) from error
    finally:
        fetcher.stop()
