"""The content of a published file for one image, and its conversion to a sample.

Legend: N regions, D feature channels, C classes with the background.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from vilbert.extractors.regions import Regions
from vilbert.pipeline.errors import ShardError
from vilbert.pipeline.shards.keys import sample_key
from vilbert.pipeline.shards.sample import MAX_SIDE, Sample

Background = Literal["none", "first", "last"]
"""Convention of class ids in a file. `none`: foreground classes only, from 0. `first`: all classes, 0 is the
background. `last`: all classes, the largest id is the background."""
MAX_CLASSES = 1 << 16
"""Maximum id; ids are stored in 16 bits."""
_OUTSIDE = 1.5
"""Pixels by which a published box may exceed the edge of its image. Such boxes are clipped: detectors with the +1 pixel
convention, and coordinates rounded to float16, exceed it by less."""
_OUTSIDE_SHARE = 0.002
"""The same as a fraction of the side, for coordinates in float16 of large images."""
_PROBABILITY_SUM = 1.02
NO_SIZE = "its size is not known: neither the file nor --image-sizes has it"


class RowError(Exception):
    """A row without a valid sample; `reason` is a code, the message describes the problem."""

    def __init__(self, reason: str, message: str, image_id: str = "") -> None:
        super().__init__(message)
        self.reason = reason
        self.image_id = image_id
        """Image id; empty if it could not be read."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PublishedImage:
    """The content of one row, in the conventions of `Regions`: class 0 is the background."""

    image_id: str
    features: NDArray[Any]
    """[N, D] float16 or float32; float64 is rounded to float32."""
    boxes: NDArray[Any]
    """[N, 4] xyxy, in pixels or as fractions of the image size."""
    boxes_are_shares: bool = False
    width: int | None = None
    """Pixels; None if the file does not contain it."""
    height: int | None = None
    object_ids: NDArray[Any] | None = None
    """[N] object class ids, from 1."""
    object_scores: NDArray[Any] | None = None
    """[N] probabilities of these."""
    class_probs: NDArray[Any] | None = None
    """[N, C] probabilities of all classes, the background first."""
    attribute_ids: NDArray[Any] | None = None
    """[N] attribute ids, from 0, without "no attribute"."""
    attribute_scores: NDArray[Any] | None = None
    """[N] probabilities of these."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """Other metadata of the sample: captions."""


@dataclass(frozen=True, kw_only=True)
class Head:
    """The part of a row that planning needs."""

    image_id: str
    width: int | None = None
    height: int | None = None
    regions: int | None = None
    """N; None if the row must be read to know it."""
    meta: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, image: PublishedImage) -> Head:
        """Return the head of an image that was read."""
        return cls(
            image_id=image.image_id,
            width=image.width,
            height=image.height,
            regions=len(image.features),
            meta=image.meta,
        )


def foreground_ids(ids: NDArray[Any], background: Background) -> NDArray[np.int64]:
    """Return ids [N] that start at 1. A background region becomes 0 or exceeds the last class; both are refused."""
    ids = ids.astype(np.int64)
    return ids if background == "first" else ids + 1


def background_first(probs: NDArray[Any], background: Background) -> NDArray[np.float32]:
    """Return probabilities [N, C] with a column for the background in front.

    If a softmax lacks that column, it is 1 minus the sum of the others.
    """
    probs = probs.astype(np.float32)
    if background == "first":
        return probs
    if background == "last":
        return np.concatenate([probs[:, -1:], probs[:, :-1]], axis=1)
    rest = (1 - probs.sum(axis=1, keepdims=True, dtype=np.float64)).clip(0, 1).astype(np.float32)
    return np.concatenate([rest, probs], axis=1)


def to_sample(image: PublishedImage, *, top_classes: int, classes: int, attributes: int) -> Sample:
    """Return the sample of an image.

    Args:
        image: The content of the file.
        top_classes: Number of most probable classes to keep.
        classes: Number of classes, including the background; larger ids are refused.
        attributes: Number of attributes; larger ids are refused.

    Raises:
        RowError: Its arrays contradict each other, or cannot be stored in a data set.
    """
    try:
        width, height = _size(image)
        arrays = _arrays(image, width, height, top_classes, classes, attributes)
        return Sample(
            key=sample_key(image.image_id),
            regions=Regions(**arrays, width=width, height=height),
            meta=sample_meta(image.image_id, image.meta),
        )
    except RowError as error:
        raise RowError(error.reason, str(error), image.image_id) from None
    except (ValueError, ShardError) as error:
        raise RowError("broken_row", str(error), image.image_id) from error


def sample_meta(image_id: str, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of the sample of an image."""
    return {"image_id": image_id, "captions": [], "split": "", **meta}


def _size(image: PublishedImage) -> tuple[int, int]:
    if image.width is None or image.height is None:
        raise RowError("no_image_size", NO_SIZE)
    if not (1 <= image.width <= MAX_SIDE and 1 <= image.height <= MAX_SIDE):
        raise RowError("no_image_size", f"its size is {image.width} x {image.height} pixels")
    return image.width, image.height


def _arrays(
    image: PublishedImage, width: int, height: int, top_classes: int, classes: int, attributes: int
) -> dict[str, NDArray[Any]]:
    features = _features(image.features)
    count = len(features)
    arrays: dict[str, NDArray[Any]] = {"boxes": _boxes(image, width, height, count), "features": features}
    object_ids, object_scores, probs = image.object_ids, image.object_scores, image.class_probs
    if probs is not None:
        probs = _probs(probs, count)
        if object_ids is None and probs.shape[1] > 1:
            object_ids = 1 + probs[:, 1:].argmax(axis=1)
            object_scores = probs[:, 1:].max(axis=1, initial=0)
        elif object_ids is not None and object_scores is None:
            object_scores = np.take_along_axis(probs, _ids(object_ids, "object_ids", count, probs.shape[1])[:, None], 1)
            object_scores = object_scores[:, 0]
    if object_ids is not None and object_scores is not None:
        arrays["object_ids"] = _ids(object_ids, "object_ids", count, classes)
        if count and arrays["object_ids"].min() < 1:
            raise RowError("background_object", "a region has the background as its object")
        arrays["object_scores"] = _scores(object_scores, "object_scores", count)
    if probs is not None:
        order = most_probable(probs, top_classes)
        arrays["class_ids"] = _ids(order, "class_ids", count, classes)
        arrays["class_probs"] = np.take_along_axis(probs, order, axis=1).astype(np.float16)
    if image.attribute_ids is not None and image.attribute_scores is not None:
        arrays["attribute_ids"] = _ids(image.attribute_ids, "attribute_ids", count, attributes)
        arrays["attribute_scores"] = _scores(image.attribute_scores, "attribute_scores", count)
    return arrays


def most_probable(probs: NDArray[np.float32], count: int) -> NDArray[np.intp]:
    """Return the ids [N, count] of the most probable classes, most probable first; ties by lower id.

    Sorting all classes would take most of the time of an import, so only candidates are sorted.
    """
    if count >= probs.shape[1]:
        return np.argsort(-probs, axis=1, kind="stable")
    least = np.partition(probs, probs.shape[1] - count, axis=1)[:, probs.shape[1] - count]
    among = probs >= least[:, None]
    tied = np.count_nonzero(among, axis=1) != count  # more than `count` are as probable as the last one
    among[tied] = False
    ids, chosen = np.nonzero(among)[1].reshape(-1, count), probs[among].reshape(-1, count)
    order = np.empty((len(probs), count), np.intp)
    order[~tied] = np.take_along_axis(ids, np.argsort(-chosen, axis=1, kind="stable"), axis=1)
    order[tied] = np.argsort(-probs[tied], axis=1, kind="stable")[:, :count]
    return order


def _features(features: NDArray[Any]) -> NDArray[Any]:
    if features.ndim == 2 and not len(features):
        raise RowError("no_regions", "it has no regions")
    if features.ndim != 2 or features.dtype.kind != "f" or not features.shape[1]:
        raise RowError("broken_row", f"features are {features.dtype}{list(features.shape)}, expected floats [N, D]")
    dtype = np.float16 if features.dtype.itemsize == 2 else np.float32
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes infinite, which is refused below
        converted = np.ascontiguousarray(features, dtype=dtype)  # also from the other byte order
    if not np.isfinite(converted).all():
        raise RowError("bad_numbers", f"{int((~np.isfinite(converted)).sum())} values of features are NaN or infinite")
    return converted


def _boxes(image: PublishedImage, width: int, height: int, count: int) -> NDArray[np.float32]:
    boxes = image.boxes
    if boxes.shape != (count, 4) or boxes.dtype.kind not in "fiu":
        raise RowError("broken_row", f"boxes are {boxes.dtype}{list(boxes.shape)}, and there are {count} features")
    sides = np.array([width, height, width, height], np.float64)
    pixels = boxes.astype(np.float64) * (sides if image.boxes_are_shares else 1)
    if not np.isfinite(pixels).all():
        raise RowError("bad_boxes", "a box holds NaN or infinity")
    clipped = pixels.clip(0, sides)
    wrong = (np.abs(clipped - pixels) > np.maximum(_OUTSIDE, _OUTSIDE_SHARE * sides)).any(axis=1)
    wrong |= (clipped[:, 0] > clipped[:, 2]) | (clipped[:, 1] > clipped[:, 3])
    if wrong.any():
        first = int(np.flatnonzero(wrong)[0])
        box = [round(side, 2) for side in pixels[first].tolist()]
        raise RowError("bad_boxes", f"box {first} {box} is outside of its image of {width} x {height} pixels")
    # float32 may round a side up, beyond the image
    return np.minimum(clipped.astype(np.float32), sides.astype(np.float32))


def _ids(ids: NDArray[Any], name: str, count: int, above: int) -> NDArray[np.uint16]:
    if ids.shape[:1] != (count,) or ids.dtype.kind not in "iu":
        raise RowError("broken_row", f"{name} are {ids.dtype}{list(ids.shape)}, and there are {count} features")
    if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < above:
        raise RowError("bad_classes", f"{name} go from {int(ids.min())} to {int(ids.max())}, and there are {above}")
    return ids.astype(np.uint16)


def _scores(scores: NDArray[Any], name: str, count: int) -> NDArray[np.float32]:
    if scores.shape != (count,) or scores.dtype.kind != "f":
        raise RowError("broken_row", f"{name} are {scores.dtype}{list(scores.shape)}, and there are {count} features")
    if not ((scores >= 0) & (scores <= 1 + 1e-3)).all():
        raise RowError("bad_numbers", f"{name} contain values that are not probabilities")
    return scores.astype(np.float32).clip(0, 1)


def _probs(probs: NDArray[Any], count: int) -> NDArray[np.float32]:
    if probs.ndim != 2 or len(probs) != count or not 2 <= probs.shape[1] <= MAX_CLASSES or probs.dtype.kind != "f":
        raise RowError(
            "broken_row", f"class_probs are {probs.dtype}{list(probs.shape)}, and there are {count} features"
        )
    if not ((probs >= 0) & (probs <= 1 + 1e-3)).all() or (probs.sum(axis=1, dtype=np.float64) > _PROBABILITY_SUM).any():
        raise RowError("bad_numbers", "class_probs are not probabilities")
    return probs.astype(np.float32).clip(0, 1)
