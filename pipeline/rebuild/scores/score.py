"""The interface of scores: numbers or texts for each sample, from its regions, captions and, if needed, its image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vilbert.plugins import Registry


class Scored(NamedTuple):
    """The input of a score. N regions."""

    key: str
    captions: tuple[str, ...]
    width: int
    """Pixels of the image."""
    height: int
    boxes: NDArray[np.float32]
    """[N, 4] xyxy in pixels."""
    object_ids: NDArray[np.uint16] | None
    """[N]; None for data sets without classes."""
    object_scores: NDArray[np.float32] | None
    """[N]; None for data sets without classes."""
    pixels: NDArray[np.uint8] | None
    """[H, W, 3] RGB, for scores that need images; rotated as for the detector."""


class Score(Protocol):
    """Computes some fields of a column of scores. A sample's fields must not depend on the rest of the batch."""

    needs_images: bool
    """Whether it needs images, which are read and decoded."""
    uses_model: bool
    """Whether it uses a neural network; then one process computes all scores."""
    fields: tuple[str, ...]
    """Names of the fields that it may return, each a Python identifier."""

    def fingerprint(self) -> dict[str, Any]:
        """Return everything that the values depend on, as JSON values: version, weights, preprocessing."""

    def score(self, samples: Sequence[Scored]) -> list[dict[str, Any]]:
        """Return the fields of each sample, as JSON values; fields without a value are omitted."""


SCORES = Registry(
    kind="score",
    group="vilbert.scores",
    built_in={
        "boxes": "vilbert.pipeline.rebuild.scores.boxes:BoxScore",
        "captions": "vilbert.pipeline.rebuild.scores.captions:CaptionScore",
        "language": "vilbert.pipeline.rebuild.scores.language:LanguageScore",
        "phash": "vilbert.pipeline.rebuild.scores.phash:PerceptualHash",
        "clip": "vilbert.pipeline.rebuild.scores.image_text:SimilarityScore",
        "aesthetic": "vilbert.pipeline.rebuild.scores.aesthetic:AestheticScore",
    },
    references=True,
)
"""Functions that take the `ScoreSettings` of the command and return a `Score`."""
