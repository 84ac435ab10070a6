"""Check the values of one sample, beyond dtypes and shapes: pure functions that yield problems.

Legend: N regions, D feature channels, K most probable classes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.extractors.regions import Regions
from vilbert.pipeline.shards.dataset import DatasetInfo
from vilbert.pipeline.shards.keys import sample_key
from vilbert.pipeline.shards.sample import Sample

OUTSIDE = 0.01
"""Pixels by which a box may extend beyond the image, for float32 rounding of a resized coordinate."""
PROBABILITY_SUM = 1.02
"""Maximum sum of the K most probable classes: 1, with the rounding of K float16 numbers."""


def sample_problems(sample: Sample, info: DatasetInfo) -> Iterator[tuple[str, str]]:
    """Yield (code, problem) for each rule of FORMAT.md that the sample violates."""
    regions = sample.regions
    yield from _shapes(sample, info)
    yield from _numbers(regions)
    for name, boxes in (("boxes", regions.boxes), ("object_boxes", regions.object_boxes)):
        if boxes is not None and not np.isnan(boxes).any():
            yield from _boxes(name, boxes, regions)
    yield from _ids(regions, info)
    yield from _meta(sample)
    yield from _image(sample, info)


def not_finite(array: NDArray[Any]) -> int:
    """Return the number of NaNs and infinities in an array."""
    if array.dtype == np.float16:  # np.isfinite is four times slower on float16 than checking the exponents
        return int(np.count_nonzero((array.view(np.uint16) & 0x7C00) == 0x7C00))
    return int(array.size - np.count_nonzero(np.isfinite(array)))


def _shapes(sample: Sample, info: DatasetInfo) -> Iterator[tuple[str, str]]:
    regions, arrays = sample.regions, sample.arrays()
    if list(arrays) != list(info.fields):
        yield "fields", f"has the fields {', '.join(arrays)}, dataset.json says {', '.join(info.fields)}"
        return
    for name, array in arrays.items():
        expected = [len(regions) if side == "N" else side for side in info.fields[name]["shape"]]
        if list(array.shape) != expected or array.dtype != info.fields[name]["dtype"]:
            said = f"{info.fields[name]['dtype']}{expected}"
            yield "fields", f"{name} is {array.dtype}{list(array.shape)}, dataset.json says {said}"
    if not len(regions):
        yield "fields", "has no regions; an image without regions belongs to the failures"


def _numbers(regions: Regions) -> Iterator[tuple[str, str]]:
    for name, array in regions.arrays().items():
        if array.dtype.kind == "f" and (count := not_finite(array)):
            yield "not-finite", f"{name} holds {count} values that are NaN or infinite"
    for name in ("object_scores", "class_probs", "attribute_scores"):
        if (array := getattr(regions, name)) is None:
            continue
        outside = int(np.count_nonzero((array < 0) | (array > 1)))
        if outside:
            yield "probability", f"{name} holds {outside} values outside 0 to 1"
    if regions.class_probs is None:
        return
    if (np.diff(regions.class_probs, axis=1) > 0).any():
        yield "probability", "class_probs is not sorted, most probable first"
    sums = regions.class_probs.sum(axis=1, dtype=np.float32)
    if (sums > PROBABILITY_SUM).any():
        yield "probability", f"the class_probs of a region sum to {float(np.nanmax(sums)):.3f}, more than 1"


def _boxes(name: str, boxes: NDArray[np.float32], regions: Regions) -> Iterator[tuple[str, str]]:
    label = "box" if name == "boxes" else "refined box"
    x1, y1, x2, y2 = boxes.T
    reversed_boxes = np.flatnonzero((x1 > x2) | (y1 > y2))
    if reversed_boxes.size:
        box = boxes[reversed_boxes[0]].tolist()
        yield "box", f"{label} {reversed_boxes[0]} {box} has x2 < x1 or y2 < y1 ({reversed_boxes.size} such boxes)"
    width, height = regions.width + OUTSIDE, regions.height + OUTSIDE
    outside = np.flatnonzero((boxes < -OUTSIDE).any(axis=1) | (x2 > width) | (y2 > height))
    if outside.size:
        box = boxes[outside[0]].tolist()
        size = f"{regions.width}x{regions.height}"
        yield "box", f"{label} {outside[0]} {box} extends beyond the image of {size} ({outside.size} such boxes)"


def _ids(regions: Regions, info: DatasetInfo) -> Iterator[tuple[str, str]]:
    limits = (
        ("object_ids", regions.object_ids, 1, len(info.class_names)),
        ("class_ids", regions.class_ids, 0, len(info.class_names)),
        ("attribute_ids", regions.attribute_ids, 0, len(info.attribute_names)),
    )
    for name, ids, lowest, above in limits:
        if ids is None:
            continue
        wrong = ids[(ids < lowest) | (ids >= above)]
        if wrong.size:
            yield "ids", f"{name} holds {int(wrong.flat[0])}, outside {lowest} to {above - 1}"
    if regions.class_ids is None:
        return
    ordered = np.sort(regions.class_ids, axis=1)
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        yield "ids", "class_ids names a class twice for one region"


def _meta(sample: Sample) -> Iterator[tuple[str, str]]:
    image_id = sample.meta["image_id"]
    if sample.key != sample_key(image_id):
        yield "key", f"its image_id {image_id!r} has the key {sample_key(image_id)!r}"
    captions = sample.meta.get("captions", [])
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        yield "meta", f"captions is {captions!r}, expected a list of strings"


def _image(sample: Sample, info: DatasetInfo) -> Iterator[tuple[str, str]]:
    kept = bool(info.fingerprint_fields.get("keep_images", False))
    if kept != (sample.image is not None):
        yield "image", f"has {'no' if kept else 'the'} bytes of its image, dataset.json says otherwise"
    elif sample.image is not None and hashlib.sha256(sample.image).hexdigest() != sample.meta.get("sha256"):
        yield "image", f"the bytes of its image have another sha256 than {sample.meta.get('sha256')!r:.80}"
