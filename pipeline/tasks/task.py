"""What a task is: items of an annotation file, the rows that each puts before the model, a head, a loss, a metric.

The loop, the order of samples, the batches and the launchers are those of pre-training; a task says only what is its
own. Shapes: I items of a batch, O options of an item, N = I x O rows, C distinct images.
"""

from __future__ import annotations

from collections.abc import Container, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from vilbert.model.outputs import ViLBertForTasksOutput
from vilbert.pipeline.tasks.registry import GivenBoxes
from vilbert.untrusted.documents import read_json

if TYPE_CHECKING:
    from pathlib import Path

    from vilbert.pipeline.tasks.batch import ItemSource
    from vilbert.pipeline.train.data.feature_rows import FeaturePart
    from vilbert.pipeline.train.engine.distributed import Group

__all__ = ["GivenBoxes", "Rows", "Shown", "Task", "TaskBase"]


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
    features: FeaturePart
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
    labels: tuple[str, ...]
    """Names of the answers that were collected from training, by class; may be empty."""

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

    def draw_from(self, image_ids: Container[str]) -> None:
        """Take note of the images that have features, where items are shown with images of others."""

    def prepare_training(self, source: ItemSource, output: Path, group: Group) -> None:
        """Prepare what training needs, once a run, in every process of the group; output: the run's folder."""

    def without_images(self, image_ids: Container[str]) -> Task:
        """Return the task without the items about these images."""

    def joint_results(self, path: Path, answers: Mapping[int, Any]) -> tuple[dict[str, float], bytes | None]:
        """Return metrics and a submission of these answers together with the results of another task."""


class TaskBase:
    """What most tasks do alike: the optional methods of `Task`, and what `vilbert report` asks of a task."""

    name: str
    items: Sequence[Any]
    labels: tuple[str, ...] = ()
    head_sizes: Mapping[str, int] = {}
    options = 1
    causal = False
    given_boxes: GivenBoxes = "unused"
    metric = "accuracy"
    reports = True
    """Whether `item_key` and `read_row` say how results are read back; without them there is no report."""
    answers_images = False
    """Whether the results have an answer per image, which belongs to the first item of the image."""

    def draw_from(self, image_ids: Container[str]) -> None:
        """Do nothing: items are shown with their own images."""

    def prepare_training(self, source: ItemSource, output: Path, group: Group) -> None:
        """Do nothing."""

    def images(self, item: Any) -> tuple[str, ...]:
        """Return the one image of an item."""
        return (item.image_id,)

    def without_images(self, image_ids: Container[str]) -> Any:
        """Return the task without the items about these images."""
        self.items = [item for item in self.items if not any(image in image_ids for image in self.images(item))]
        return self

    def joint_results(self, path: Path, answers: Mapping[int, Any]) -> tuple[dict[str, float], bytes | None]:
        """Return nothing: the task has no other that it is scored with."""
        return {}, None

    def label(self, number: int) -> int | None:
        """Return the class or option that is right; None where it is not known."""
        return None

    def item_key(self, item: Any) -> Hashable:
        """Return what names an item in the file of results."""
        raise NotImplementedError

    def read_row(self, row: Any) -> tuple[Hashable, Any]:
        """Return the key and the answer of a row of the results, as `answers` has it.

        Raises LookupError, TypeError or ValueError where it is not such a row.
        """
        raise NotImplementedError

    def read_rows(self, path: Path) -> Any:
        """Return the rows of a file of results."""
        return read_json(path)

    def has_truth(self, number: int) -> bool:
        """Return whether the right answer to an item is known."""
        return self.label(number) is not None

    def score(self, number: int, answer: Any) -> float:
        """Return how right an answer is, from 0 to 1."""
        return float(answer == self.label(number))

    def true_texts(self, number: int) -> list[str]:
        """Return the right answers as `Predictor` spells them."""
        return []

    def people(self, number: int) -> tuple[str, ...]:
        """Return what people answered, a line each."""
        return tuple(self.true_texts(number))

    def spell(self, answer: Any) -> str:
        """Return an answer as a person reads it."""
        return str(answer)


def text_of(value: Any) -> str:
    """Return a value of a file that must be text; TypeError where it is not."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def numbers_of(value: Any, count: int) -> list[float]:
    """Return a value of a file that must be a list of so many numbers; ValueError where it is not."""
    if not isinstance(value, list) or len(value) != count:
        raise ValueError(f"{value!r} is not a list of {count} numbers")
    return [float(number) for number in value]
