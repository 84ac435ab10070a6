"""What a detector says of one image.

Shapes: N regions, D feature channels, K most probable classes. Class 0 is the background, as ViLBERT counts (Lu et al.
2019, section 3.1; jiasenlu/vilbert_beta `concept_cap_dataset.py`), so `class_names[object_id]` names an object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_DTYPES: dict[str, Any] = {
    "boxes": np.float32,
    "features": np.float16,
    "object_ids": np.uint16,
    "object_scores": np.float32,
    "class_ids": np.uint16,
    "class_probs": np.float16,
    "attribute_ids": np.uint16,
    "attribute_scores": np.float32,
}


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Regions:
    """The regions of one image, in the detector's order of selection.

    Raises ValueError where an array's dtype or shape is not the one documented.
    """

    boxes: NDArray[np.float32]
    """[N, 4] xyxy in pixels of the stored image."""
    features: NDArray[np.float16]
    """[N, D]."""
    object_ids: NDArray[np.uint16]
    """[N] most probable class but for the background, 1-based: 0 is the background."""
    object_scores: NDArray[np.float32]
    """[N] its softmax probability."""
    class_ids: NDArray[np.uint16]
    """[N, K] the K most probable classes, background included, most probable first."""
    class_probs: NDArray[np.float16]
    """[N, K] their softmax probabilities."""
    width: int
    """Pixels of the stored image."""
    height: int
    """Pixels of the stored image."""
    attribute_ids: NDArray[np.uint16] | None = None
    """[N] most probable attribute, where the detector names attributes."""
    attribute_scores: NDArray[np.float32] | None = None
    """[N] its probability."""

    def __post_init__(self) -> None:
        count = len(self.boxes)
        for name, array in self.arrays().items():
            columns = {"boxes": (4,), "features": self.features.shape[1:]}.get(
                name, self.class_ids.shape[1:] if name.startswith("class_") else ()
            )
            if array.dtype != _DTYPES[name] or array.shape != (count, *columns):
                raise ValueError(
                    f"Regions.{name} is {array.dtype}{list(array.shape)}, "
                    f"expected {np.dtype(_DTYPES[name])}{[count, *columns]}"
                )

    def __len__(self) -> int:
        return len(self.boxes)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by name, in the order in which they are stored; absent attributes are left out."""
        arrays = {name: getattr(self, name) for name in _DTYPES}
        return {name: array for name, array in arrays.items() if array is not None}
