"""NLVR2 (Suhr et al. 2019): is a sentence true of two photographs?

Each image is a row with the sentence; the classifier reads the two fused vectors side by side, as in 12-in-1. There
both images' regions went through one list that was cut in two, which put regions of the right one into the left row
where an image had few; here each has a row of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from vilbert.model.outputs import ViLBertForTasksOutput
from vilbert.pipeline.tasks.labels import label_targets, labelled
from vilbert.pipeline.tasks.losses import binary_loss
from vilbert.pipeline.tasks.nlvr2_files import NlvrStatement, nlvr2_accuracy, nlvr2_results_csv, read_nlvr2
from vilbert.pipeline.tasks.registry import TaskFiles
from vilbert.pipeline.tasks.task import GivenBoxes, Rows, Shown, Task


class Nlvr2Task:
    """Statements of one split; the answer is 1 for true, 0 for false."""

    head = "vil_binary_prediction"
    options = 2
    causal = False
    given_boxes: GivenBoxes = "unused"
    metric = "accuracy"
    head_sizes: Mapping[str, int] = {}

    def __init__(self, name: str, items: Sequence[NlvrStatement]) -> None:
        """Take statements."""
        self.name = name
        self.items = items

    def images(self, item: NlvrStatement) -> tuple[str, ...]:
        """Return the left and the right image."""
        return item.image_ids

    def rows(self, number: int, key: np.uint64) -> Rows:
        """Return the sentence before each of its images."""
        item = self.items[number]
        return Rows(((item.text,),) * 2, item.image_ids)

    def label(self, number: int) -> int | None:
        """Return 1 for true, 0 for false, None where it is secret."""
        truth = self.items[number].label
        return None if truth is None else int(truth)

    def targets(self, numbers: Sequence[int], shown: Sequence[Shown | None]) -> dict[str, Tensor]:
        """Return label int64 [I]."""
        return label_targets(self.label, numbers)

    def count(self, targets: Mapping[str, Tensor]) -> int:
        """Return what the mean is over: both classes of each labelled statement."""
        return 2 * labelled(targets)

    def loss(self, output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> Tensor:
        """Return binary cross-entropy of both classes, summed."""
        assert output.vil_binary_prediction is not None
        return binary_loss(output.vil_binary_prediction, targets["label"])

    def answers(self, output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> list[Any]:
        """Return 1 or 0 for each statement."""
        assert output.vil_binary_prediction is not None
        return output.vil_binary_prediction.argmax(1).tolist()

    def figures(self, answers: Mapping[int, Any]) -> dict[str, float]:
        """Return accuracy, and consistency: the share of sentences told right with all their pairs of images."""
        known = sorted(number for number in answers if self.items[number].label is not None)
        if not known:
            return {}
        statements = [self.items[number] for number in known]
        accuracy, consistency = nlvr2_accuracy(statements, [bool(answers[number]) for number in known])
        return {"accuracy": accuracy, "consistency": consistency}

    def results(self, answers: Mapping[int, Any]) -> bytes:
        """Return the CSV of the official evaluation: identifier and True or False, without a header."""
        numbers = sorted(answers)
        identifiers = [self.items[number].identifier for number in numbers]
        return nlvr2_results_csv(identifiers, [bool(answers[number]) for number in numbers]).encode()


def open_task(name: str, files: TaskFiles, split: str, like: Task | None) -> Nlvr2Task:
    """Read the statements of a split."""
    return Nlvr2Task(name, read_nlvr2(files.folder, split))
