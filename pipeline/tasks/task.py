"""The interface of a task: items of annotation files, the model inputs of each, a head, a loss and metrics.

The training loop, sample order, batches and launchers are those of pre-training; a task defines only the rest.
Shapes: I items of a batch, O options of an item, N = I x O rows, C distinct images.
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
    """The regions of one image as the model receives them: detected ones, then given ones."""

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
    """[R], weight of each region in the feature of the whole image; they sum to 1."""


class Rows(NamedTuple):
    """The model inputs of one item, with an entry per option."""

    texts: tuple[tuple[str, ...], ...]
    """Sentences, joined by separators; the last of several is in segment 1."""
    images: tuple[str, ...]
    """The image of each text."""


class Task(Protocol):
    """A task over the items of one split."""

    name: str
    """Name on the command line."""
    head: str
    """Name of the `ViLBertForTasks` output that the task uses."""
    options: int
    """O, number of rows per item."""
    causal: bool
    """Whether tokens attend only to previous tokens."""
    given_boxes: GivenBoxes
    """How the task uses regions at given boxes, if there are any."""
    head_sizes: Mapping[str, int]
    """Config settings that the task determines, such as `num_answers`."""
    metric: str
    """Metric that selects the best checkpoint; higher is better."""
    items: Sequence[Any]
    """Items in the order of the files."""
    labels: tuple[str, ...]
    """Names of answers collected from the training data, by class; may be empty."""

    def images(self, item: Any) -> tuple[str, ...]:
        """Return the images of an item; it is stored at the place of the first one."""

    def rows(self, number: int, key: np.uint64) -> Rows:
        """Return the rows of item `number`; random draws depend only on `key`."""

    def targets(self, numbers: Sequence[int], shown: Sequence[Shown | None]) -> dict[str, Tensor]:
        """Return the inputs of the loss for some items: tensors with first dimension I.

        Args:
            numbers: Indices of the items; negative ones are not trained on.
            shown: First image of each item; None if it cannot be read, so the item is not trained on.
        """

    def count(self, targets: Mapping[str, Tensor]) -> int:
        """Return the divisor of the summed loss, computed from the targets."""

    def loss(self, output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> Tensor:
        """Return the summed loss, float32 []."""

    def answers(self, output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> list[Any]:
        """Return the prediction for each item as JSON values."""

    def figures(self, answers: Mapping[int, Any]) -> dict[str, float]:
        """Return the metrics, given predictions by item index."""

    def results(self, answers: Mapping[int, Any]) -> bytes:
        """Return the results file in the format of the task's server or evaluation code."""

    def draw_from(self, image_ids: Container[str]) -> None:
        """Set the images with features, for tasks that combine items with images of other items."""

    def prepare_training(self, source: ItemSource, output: Path, group: Group) -> None:
        """Prepare training once per run, in every process of the group; `output` is the run's folder."""

    def without_images(self, image_ids: Container[str]) -> Task:
        """Return the task without the items about these images."""

    def joint_results(self, path: Path, answers: Mapping[int, Any]) -> tuple[dict[str, float], bytes | None]:
        """Return metrics and a submission from these answers and the results of another task."""


class TaskBase:
    """Default implementations of the optional methods of `Task` and of those that `vilbert report` uses."""

    name: str
    items: Sequence[Any]
    labels: tuple[str, ...] = ()
    head_sizes: Mapping[str, int] = {}
    options = 1
    causal = False
    given_boxes: GivenBoxes = "unused"
    metric = "accuracy"
    reports = True
    """Whether `item_key` and `read_row` are implemented, which `vilbert report` needs."""
    answers_images = False
    """Whether results contain one answer per image, which belongs to the image's first item."""

    def draw_from(self, image_ids: Container[str]) -> None:
        """Do nothing: items only use their own images."""

    def prepare_training(self, source: ItemSource, output: Path, group: Group) -> None:
        """Do nothing."""

    def images(self, item: Any) -> tuple[str, ...]:
        """Return the image of an item."""
        return (item.image_id,)

    def without_images(self, image_ids: Container[str]) -> Any:
        """Return the task without the items about these images."""
        self.items = [item for item in self.items if not any(image in image_ids for image in self.images(item))]
        return self

    def joint_results(self, path: Path, answers: Mapping[int, Any]) -> tuple[dict[str, float], bytes | None]:
        """Return nothing: the task is not scored together with another one."""
        return {}, None

    def label(self, number: int) -> int | None:
        """Return the index of the correct class or option; None if it is unknown."""
        return None

    def item_key(self, item: Any) -> Hashable:
        """Return the key of an item in the results file."""
        raise NotImplementedError

    def read_row(self, row: Any) -> tuple[Hashable, Any]:
        """Return the key and the answer of a row of the results file, in the form of `answers`.

        Raises:
            LookupError, TypeError, ValueError: The row is invalid.
        """
        raise NotImplementedError

    def read_rows(self, path: Path) -> Any:
        """Return the rows of a results file."""
        return read_json(path)

    def has_truth(self, number: int) -> bool:
        """Return whether the correct answer to an item is known."""
        return self.label(number) is not None

    def score(self, number: int, answer: Any) -> float:
        """Return the score of an answer, from 0 to 1."""
        return float(answer == self.label(number))

    def true_texts(self, number: int) -> list[str]:
        """Return the correct answers in the spelling of `Predictor`."""
        return []

    def people(self, number: int) -> tuple[str, ...]:
        """Return the annotated answers, one per line."""
        return tuple(self.true_texts(number))

    def spell(self, answer: Any) -> str:
        """Return an answer as text."""
        return str(answer)


def text_of(value: Any) -> str:
    """Return a value that must be text; raise TypeError if it is not."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def numbers_of(value: Any, count: int) -> list[float]:
    """Return a value that must be a list of `count` numbers; raise ValueError if it is not."""
    if not isinstance(value, list) or len(value) != count:
        raise ValueError(f"{value!r} is not a list of {count} numbers")
    return [float(number) for number in value]
