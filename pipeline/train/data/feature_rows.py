"""Features of some images, laid out side by side for a batch.

Features of one byte a value stay as they are stored, where all images of the batch have such features: the batch holds
their codes and scales, half the bytes of float16, and `features_on` expands them on the model's device. Where images
differ, or several features are concatenated, they are expanded into the batch. Both give the same numbers.

Shapes: B images, R regions of the one with most (at least 1), N regions of one image, D features.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from operator import attrgetter
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vilbert.pipeline.shards.small_features import SmallFeatures, expand, expand_codes
from vilbert.pipeline.train.data.shared_buffers import empty_features

FeaturePart: TypeAlias = NDArray[np.float16] | NDArray[np.float32] | SmallFeatures
"""[N, M] features of an image, or some of their channels."""


_NARROW = 64
"""Channels of a narrow part."""


class FeatureRows(NamedTuple):
    """Features of a batch; padding is 0."""

    features: Tensor
    """float16 [B, R, D]; int8 or uint8 (float8) codes where there are scales."""
    scales: Tensor | None
    """float32 [B, R, 2], see `SmallFeatures`; None where features are float16."""


def joined_features(parts: Sequence[FeaturePart]) -> NDArray[np.float16] | NDArray[np.float32]:
    """Return the parts of an image side by side, [N, D]."""
    found = [_expanded(part) for part in parts]
    joined: NDArray[Any] = found[0] if len(found) == 1 else np.concatenate(found, axis=1)
    return joined


def copy_features(parts: Sequence[FeaturePart], target: NDArray[Any]) -> None:
    """Write the features of the first regions into an array [at most N, D], each part once."""
    if len(parts) == 1:
        target[...] = _first(parts[0], len(target))
        return
    start = 0
    for part in parts:
        stop = start + part.shape[1]
        target[:, start:stop] = _first(part, len(target))
        start = stop


def lay_out_features(
    images: Sequence[Sequence[FeaturePart]],
    counts: Sequence[int],
    *,
    channels: int,
    most: int,
    width: int | None = None,
) -> FeatureRows:
    """Lay the first regions of images side by side.

    Args:
        images: The parts of each; empty for an image without features.
        counts: Regions of each.
        channels: D.
        most: Regions that an image may have; decides the size of buffers.
        width: R, default: the largest count.
    """
    shape, room = (len(images), width or max(1, *counts), channels), len(images) * most * channels
    kinds = {_kind(parts) for parts in images if parts}
    codes = kinds.pop() if len(kinds) == 1 else None
    features = empty_features(shape, room=room, dtype=codes or torch.float16)
    scales = None if codes is None else np.zeros((*shape[:2], 2), np.float32)
    target = features.numpy()
    if min(counts) == shape[1] and _are_alike(images, shape[1], codes=scales is not None):
        _copy_together(images, target, scales)
        return FeatureRows(features, None if scales is None else torch.from_numpy(scales))
    for row, (parts, count) in enumerate(zip(images, counts, strict=True)):
        target[row, count:] = 0
        if scales is None:
            copy_features(parts, target[row, :count])
        elif parts:
            (small,) = parts
            assert isinstance(small, SmallFeatures)
            target[row, :count], scales[row, :count] = small.rows(slice(count))
    return FeatureRows(features, None if scales is None else torch.from_numpy(scales))


def _are_alike(images: Sequence[Sequence[FeaturePart]], regions: int, *, codes: bool) -> bool:
    """Return whether all images have parts of the same shapes, of so many regions, all of codes or all of floats.

    Its loops are in C: it is called for each batch.
    """
    if len(set(map(len, images))) > 1:
        return False
    columns = list(zip(*images, strict=True))
    kinds = set(map(type, chain.from_iterable(columns)))
    if kinds != {SmallFeatures} if codes else SmallFeatures in kinds:
        return False
    shapes = [set(map(attrgetter("shape"), column)) for column in columns]
    return all(len(shape) == 1 and next(iter(shape))[0] == regions for shape in shapes)


def _copy_together(
    images: Sequence[Sequence[FeaturePart]], target: NDArray[Any], scales: NDArray[np.float32] | None
) -> None:
    """Copy the features of images of equal shapes, several times faster than image by image."""
    rows, start = target.reshape(-1, target.shape[2]), 0
    for parts in zip(*images, strict=True):
        stop = start + parts[0].shape[1]
        if scales is not None:
            np.concatenate([part.scales for part in parts], out=scales.reshape(-1, 2))
            np.concatenate([part.codes for part in parts], out=rows)
        elif stop - start > _NARROW:
            _concatenate(parts, rows[:, start:stop])
        else:  # faster by way of one array
            rows[:, start:stop] = np.concatenate(parts)
        start = stop


def _concatenate(parts: Sequence[Any], target: NDArray[Any]) -> None:
    """Copy [N, M] arrays below each other into rows that are not contiguous.

    NumPy copies a row at once where the row is one item, and its values one by one otherwise.
    """
    if any(part.dtype != target.dtype or part.strides[1] != part.itemsize for part in parts):
        np.concatenate(parts, out=target)
        return
    row = np.dtype((np.void, target.itemsize * target.shape[1]))
    np.concatenate([part.view(row) for part in parts], out=target.view(row))


def features_on(device: torch.device | str, features: Tensor, scales: Tensor | None) -> Tensor:
    """Return the features of `FeatureRows` as float16 [B, R, D] on a device."""
    moved = features.to(device, non_blocking=True)
    return moved if scales is None else expand_codes(moved, scales.to(device, non_blocking=True))


def _kind(parts: Sequence[FeaturePart]) -> torch.dtype | None:
    """Return the dtype of the codes of an image; None where it has other features, or several."""
    if len(parts) > 1 or not isinstance(parts[0], SmallFeatures):
        return None
    return torch.int8 if parts[0].codes.dtype == np.int8 else torch.uint8


def _expanded(part: FeaturePart) -> NDArray[np.float16] | NDArray[np.float32]:
    return expand(part) if isinstance(part, SmallFeatures) else part


def _first(part: FeaturePart, count: int) -> NDArray[np.float16] | NDArray[np.float32]:
    if isinstance(part, SmallFeatures):
        return expand(part.rows(slice(count)))
    return part if len(part) == count else part[:count]
