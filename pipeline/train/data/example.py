"""One sample as training reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vilbert.pipeline.train.data.feature_rows import FeaturePart, copy_features, joined_features


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Example:
    """The values of a sample that training uses. Arrays are read-only, and views of the mapped file for a tar shard."""

    image_id: str
    """As in the manifest."""
    captions: tuple[str, ...]
    """As in the manifest; may be empty."""
    width: int
    """Pixels of the image."""
    height: int
    """Pixels of the image."""
    boxes: NDArray[np.float32]
    """[N, 4] xyxy in pixels."""
    feature_parts: tuple[FeaturePart, ...]
    """[N, M] for each name of `--features`; `features` concatenates them."""
    class_ids: NDArray[np.uint16]
    """[N, K] most probable classes, most probable first; 0 is the background. K is 0 for data sets without classes, and
    if the class targets come from a column."""
    class_probs: NDArray[np.float16] | NDArray[np.float32]
    """[N, K] their probabilities; [N, C] the probabilities of all classes if they come from a column."""

    @property
    def features(self) -> NDArray[np.float16] | NDArray[np.float32]:
        """[N, D]. A copy if several features are concatenated or quantised features are expanded."""
        return joined_features(self.feature_parts)

    def copy_features(self, target: NDArray[Any]) -> None:
        """Write the features of the first regions into an array [at most N, D] without an intermediate copy."""
        copy_features(self.feature_parts, target)
