"""Photographs to regions, as `vilbert extract` makes them, for images that are asked about here and now."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from extractors.decode import DecodeSettings, ImageError, decode
from extractors.extractor import Extractor
from extractors.regions import Regions
from manifests.orientation import has_published_name
from manifests.uri import ImageReader
from pipeline.extract.batches import group_by_shape
from pipeline.extract.prepare import fetch
from pipeline.shards.errors import RefusedError
from pipeline.tasks.images import mean_weights
from pipeline.tasks.task import Shown

Photograph = Path | NDArray[np.uint8]
"""An image file, or its pixels: RGB [H, W, 3]."""

DETECTOR_BATCH = 8
"""Photographs of a detector pass, as in `vilbert extract` by default."""


def name_of_photograph(photograph: Photograph, number: int) -> str:
    """Return what messages call a photograph: its path, or its place in the list from 0."""
    return str(photograph) if isinstance(photograph, Path) else f"image {number}"


def read_pixels(photograph: Photograph, name: str, decoding: DecodeSettings) -> NDArray[np.uint8]:
    """Return RGB uint8 [H, W, 3], upright; files of COCO and Visual Genome as stored, as they are extracted.

    RefusedError naming the photograph and the reason where it cannot be had.
    """
    if isinstance(photograph, Path):
        try:
            data = fetch(str(photograph), decoding.max_bytes, ImageReader())
            # As the manifest does for the same file, so that the regions are those of training.
            return decode(data, decoding, apply_orientation=not has_published_name(str(photograph))).pixels
        except ImageError as error:
            raise RefusedError(f"{name}: cannot be used as a photograph, {error}") from error
    if photograph.dtype != np.uint8 or photograph.ndim != 3 or photograph.shape[2] != 3 or not photograph.size:
        found = f"{photograph.dtype}{list(photograph.shape)}"
        raise RefusedError(f"{name}: is {found}; give RGB pixels, uint8[H, W, 3], or the path of a file")
    return photograph


def detect(
    extractor: Extractor, photographs: Sequence[tuple[str, Photograph]], *, decoding: DecodeSettings
) -> list[Regions]:
    """Return the regions of photographs, each with its name; no more than two detector passes' pixels are held.

    Raises RefusedError naming a photograph that cannot be read, or in which the detector finds nothing.
    """
    found: dict[int, Regions] = {}

    def read() -> Iterator[tuple[int, NDArray[np.uint8]]]:
        for number, (name, photograph) in enumerate(photographs):
            yield number, read_pixels(photograph, name, decoding)

    batches = group_by_shape(
        read(), lambda item: extractor.resized_shape(*item[1].shape[:2]), DETECTOR_BATCH, max_lag=DETECTOR_BATCH
    )
    for batch in batches:
        regions = extractor.extract([pixels for _, pixels in batch], [None] * len(batch))
        found.update((number, of_one) for (number, _), of_one in zip(batch, regions, strict=True))
    for number, (name, _) in enumerate(photographs):
        if not len(found[number]):
            raise RefusedError(f"{name}: the detector finds no region in it")
    return [found[number] for number in range(len(photographs))]


def shown(regions: Regions, name: str, *, max_regions: int) -> Shown:
    """Return the first `max_regions` regions as a task shows them."""
    boxes = regions.boxes[:max_regions]
    return Shown(
        image_id=name,
        width=regions.width,
        height=regions.height,
        boxes=boxes,
        features=regions.features[:max_regions],
        weights=mean_weights(len(boxes)),
    )
