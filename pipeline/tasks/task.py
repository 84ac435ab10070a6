"""What a task is: items of an annotation file, the rows that each puts before the model, a head, a loss, a metric.

The loop, the order of samples, the batches and the launchers are those of pre-training; a task says only what is its
own. Shapes: I items of a batch, O options of an item, N = I x O rows, C distinct images.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vilbert.model.outputs import ViLBertForTasksOutput

GivenBoxes = Literal["unused", "candidates", "averaged"]
"""What a task makes of regions at given boxes: nothing, regions beside the detector's, or such that count in the
feature of the whole image, too."""


@dataclass(frozen=True, kw_only=True, eq=False, slots=True)
class Shown:
    """The regions of one image as the model sees them: those that the detector found, then given ones."""

    image_id: str
    """As in the data set."""
    width: int
    """Pixels of the image."""
    height: int
    """Pixels of the image."""
    boxes: NDArray[np.float32]
    """[R, 4] xyxy in pixels."""
    features: NDArray[np.float16]
    """[R, D]."""
    weights: NDArray[np.float32]
    """[R], what each region counts in the feature of the whole image; they sum to 1."""


class Rows(NamedTuple):
    """What one item puts before the model, an entry for each option."""

    texts: tuple[tuple[str, ...], ...]
    """Sentences that separators part; the last of several is in segment 1."""
    images: tuple[str, ...]
    """The image that each text is shown with."""


class Task(Protocol):
    """A task over the items of one split."""

    name: str
    """As on the command line."""
    head: str
    """The output of `ViLBertForTasks` that it reads."""
    options: int
    """O, rows of an item."""
    causal: bool
    """Whether a word sees only those before it."""
    given_boxes: GivenBoxes
    """What it makes of regions at given boxes, where there are any."""
    head_sizes: Mapping[str, int]
    """Settings of the model's config that it decides, such as `num_answers`."""
    metric: str
    """The figure that says which checkpoint is best; higher is better."""
    items: Sequence[Any]
    """What there is to answer, in the order of the files."""

    def images(self, item: Any) -> tuple[str, ...]:
        """Return the images that an item is about; it is read where the first of them lies."""

    def rows(self, number: int, key: np.uint64) -> Rows:
        """Return the rows of item `number`; what is random in them is drawn from its key."""

    def targets(self, numbers: Sequence[int], shown: Sequence[Shown | None]) -> dict[str, Tensor]:
        """Return what the loss of some items needs, tensors whose first dimension is I.

        shown: of each item, its first image; None where it cannot be read, and nothing is to be learnt.
        """

    def count(self, targets: Mapping[str, Tensor]) -> int:
        """Return what the sum of the loss is divided by, known from the targets alone."""

    def loss(self, output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> Tensor:
        """Return the loss as a sum, [] float32."""

    def answers(self, output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> list[Any]:
        """Return what the model answers to each item, as JSON values."""

    def figures(self, answers: Mapping[int, Any]) -> dict[str, float]:
        """Return the task's metrics; answers: by number of the item."""

    def results(self, answers: Mapping[int, Any]) -> bytes:
        """Return the file of results as the task's server or evaluation code takes it."""
