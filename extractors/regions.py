"""What a detector says of one image.

Shapes: N regions, D feature channels, K most probable classes. Class 0 is the background, as ViLBERT counts (Lu et al.
2019, section 3.1; jiasenlu/vilbert_beta `concept_cap_dataset.py`), so `class_names[object_id]` names an object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

DTYPES: dict[str, tuple[Any, ...]] = {
    "boxes": (np.float32,),
    "features": (np.float16, np.float32),
    "object_ids": (np.uint16,),
    "object_scores": (np.float32,),
    "object_boxes": (np.float32,),
    "class_ids": (np.uint16,),
    "class_probs": (np.float16,),
    "attribute_ids": (np.uint16,),
    "attribute_scores": (np.float32,),
}
PAIRS = (("object_ids", "object_scores"), ("class_ids", "class_probs"), ("attribute_ids", "attribute_scores"))
"""Optional arrays: both of a pair are there, or neither."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Regions:
    """The regions of one image, in the detector's order of selection.

    Boxes and features are always there. A detector without classes, such as patches, has no object and class arrays;
    one without a softmax over its classes has objects but no `class_ids` and `class_probs`.

    Raises:
        ValueError: An array has another dtype or shape than documented, or one of a pair is missing.
    """

    boxes: NDArray[np.float32]
    """[N, 4] xyxy in pixels of the stored image."""
    features: NDArray[np.float16] | NDArray[np.float32]
    """[N, D] float16; float32 where published features are imported as they are."""
    width: int
    """Pixels of the stored image."""
    height: int
    """Pixels of the stored image."""
    object_ids: NDArray[np.uint16] | None = None
    """[N] most probable class but for the background, 1-based: 0 is the background."""
    object_scores: NDArray[np.float32] | None = None
    """[N] its probability."""
    object_boxes: NDArray[np.float32] | None = None
    """[N, 4] xyxy in pixels of the stored image: the boxes that the detector refined for the objects, where `boxes` are
    the proposals."""
    class_ids: NDArray[np.uint16] | None = None
    """[N, K] the K most probable classes of a softmax, background included, most probable first."""
    class_probs: NDArray[np.float16] | None = None
    """[N, K] their softmax probabilities."""
    attribute_ids: NDArray[np.uint16] | None = None
    """[N] most probable attribute, where the detector names attributes."""
    attribute_scores: NDArray[np.float32] | None = None
    """[N] its probability."""

    def __post_init__(self) -> None:
        count = len(self.boxes)
        arrays = self.arrays()
        for first, second in PAIRS:
            if (first in arrays) != (second in arrays):
                raise ValueError(f"Regions has only one of {first} and {second}; give both or neither")
        columns = {"boxes": (4,), "object_boxes": (4,), "features": self.features.shape[1:]}
        if self.class_ids is not None:
            columns["class_ids"] = columns["class_probs"] = self.class_ids.shape[1:]
        for name, array in arrays.items():
            shape = (count, *columns.get(name, ()))
            if array.dtype not in DTYPES[name] or array.shape != shape:
                raise ValueError(
                    f"Regions.{name} is {array.dtype}{list(array.shape)}, "
                    f"expected {np.dtype(DTYPES[name][0])}{list(shape)}"
                )

    def __len__(self) -> int:
        return len(self.boxes)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name, in the order in which they are stored; absent ones are left out."""
        arrays = {name: getattr(self, name) for name in DTYPES}
        return {name: array for name, array in arrays.items() if array is not None}
