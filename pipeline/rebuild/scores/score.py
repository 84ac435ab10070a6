"""What a score is: some numbers or texts for each sample, from its regions, captions and, if it needs it, its image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from vilbert.plugins import Registry


class Scored(NamedTuple):
    """What a score is computed from. N regions."""

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
    """[H, W, 3] RGB, for scores that need images; turned as it was for the detector."""


class Score(Protocol):
    """Computes some fields of a column of scores. The fields of a sample do not depend on the others of the batch."""

    needs_images: bool
    """Whether images are read and decoded for it."""
    uses_model: bool
    """Whether it holds a network: then one process computes all scores."""
    fields: tuple[str, ...]
    """Names of the fields that it may give, each a Python identifier."""

    def fingerprint(self) -> dict[str, Any]:
        """Return, as JSON values, all that the values depend on: versions of the method, weights, preprocessing."""

    def score(self, samples: Sequence[Scored]) -> list[dict[str, Any]]:
        """Return the fields of each sample, as JSON values; one that has no value for a sample is left out."""


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
