"""Fields that MMF's extraction scripts save beside the features of an image, in `_info.npy` and in LMDB.

The scripts differ. `extract_features_vmb.py` saves probabilities of all classes, without the background's column unless
`--background` was given. `extract_features_frcnn.py` saves the best class's probability under the same name, and at
most `--num_features` boxes. `extract_features_vinvl.py` saves boxes as fractions of the image size, in six columns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.rebuild.formats.importers.mapping_fields import (
    require_array,
    take_array,
    take_column,
    take_number,
)
from vilbert.pipeline.rebuild.formats.importers.published_image import (
    Background,
    PublishedImage,
    RowError,
    background_first,
    foreground_ids,
)

_APPENDED = 6
"""Number of columns that VinVL appends to features: the box, as stored beside them."""


def mmf_image(
    image_id: str, features: NDArray[Any], info: Mapping[Any, Any], background: Background | None
) -> PublishedImage:
    """Return the image from features and the fields beside them.

    Args:
        image_id: The image's id.
        features: [N, D].
        info: The fields.
        background: Convention of the class ids; None: determined by the columns of `cls_prob`, as in MMF's scripts.

    Raises:
        RowError: There are no boxes, or a field is invalid.
    """
    if features.ndim == 3 and features.shape[0] == 1:
        features = features[0]
    boxes = require_array(info, "bbox")
    shares = boxes.ndim == 2 and boxes.shape[1] == _APPENDED
    if shares:
        boxes, features = boxes[:, :4], _without_box(features, boxes)
    if features.ndim != 2 or boxes.ndim != 2:
        raise RowError("broken_row", f"features are {list(features.shape)}, boxes {list(boxes.shape)}", image_id)
    features = features[: len(boxes)]
    probs = scores = None
    if (stored := take_array(info, "cls_prob")) is not None:
        stored = stored[: len(boxes)]
        probs, scores = (None, stored) if stored.ndim == 1 else (stored, None)
    convention = background or _convention(probs)
    objects = take_column(info, "objects")
    if "labels" in info:  # VinVL's, where 0 is the background
        objects, scores, convention = take_column(info, "labels"), take_column(info, "scores"), background or "first"
    if objects is not None and objects.dtype.kind == "f":
        objects = objects.astype(np.int64)
    return PublishedImage(
        image_id=image_id,
        features=features,
        boxes=boxes,
        boxes_are_shares=shares,
        width=take_number(info, "image_width"),
        height=take_number(info, "image_height"),
        object_ids=None if objects is None else foreground_ids(objects[: len(boxes)], convention),
        object_scores=scores,
        class_probs=None if probs is None else background_first(probs, convention),
    )


def _without_box(features: NDArray[Any], boxes: NDArray[Any]) -> NDArray[Any]:
    """Return features without the box that VinVL appends to them; others unchanged."""
    if features.ndim == 2 and features.shape[1] > _APPENDED and len(features) == len(boxes):
        tail = features[:, -_APPENDED:]
        if np.allclose(tail, boxes, atol=1e-4):
            return features[:, :-_APPENDED]
    return features


def _convention(probs: NDArray[Any] | None) -> Background:
    """Return the convention of ids: with the background's column, a softmax adds up to 1 and ids include it."""
    if probs is None or probs.ndim != 2:
        return "none"
    sums = probs.sum(axis=1, dtype=np.float64)
    return "first" if len(sums) and bool((np.abs(sums - 1) < 1e-3).all()) else "none"
