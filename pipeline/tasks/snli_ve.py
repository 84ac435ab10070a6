"""SNLI-VE (Xie et al. 2019): does an image entail a sentence, contradict it, or neither?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from vilbert.model.outputs import ViLBertForTasksOutput
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.tasks.labels import label_targets, labelled, share_right
from vilbert.pipeline.tasks.losses import binary_loss
from vilbert.pipeline.tasks.registry import TaskFiles
from vilbert.pipeline.tasks.snli_ve_files import LABELS, Hypothesis, read_snli_ve
from vilbert.pipeline.tasks.task import GivenBoxes, Rows, Shown, Task


class SnliVeTask:
    """Hypotheses of one split; the answer is a number of `LABELS`."""

    head = "vil_tri_prediction"
    options = 1
    causal = False
    given_boxes: GivenBoxes = "unused"
    metric = "accuracy"
    head_sizes: Mapping[str, int] = {}

    def __init__(self, name: str, items: Sequence[Hypothesis]) -> None:
        """Take hypotheses."""
        self.name = name
        self.items = items

    def images(self, item: Hypothesis) -> tuple[str, ...]:
        """Return the image that is the premise."""
        return (item.image_id,)

    def rows(self, number: int, key: np.uint64) -> Rows:
        """Return the hypothesis before its image."""
        item = self.items[number]
        return Rows(((item.text,),), (item.image_id,))

    def label(self, number: int) -> int | None:
        """Return the number of the label, None where annotators did not agree."""
        return self.items[number].label

    def targets(self, numbers: Sequence[int], shown: Sequence[Shown | None]) -> dict[str, Tensor]:
        """Return label int64 [I]."""
        return label_targets(self.label, numbers)

    def count(self, targets: Mapping[str, Tensor]) -> int:
        """Return what the mean is over: the three classes of each labelled hypothesis."""
        return len(LABELS) * labelled(targets)

    def loss(self, output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> Tensor:
        """Return binary cross-entropy of the three classes, summed."""
        assert output.vil_tri_prediction is not None
        return binary_loss(output.vil_tri_prediction, targets["label"])

    def answers(self, output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> list[Any]:
        """Return the number of the most probable label."""
        assert output.vil_tri_prediction is not None
        return output.vil_tri_prediction.argmax(1).tolist()

    def figures(self, answers: Mapping[int, Any]) -> dict[str, float]:
        """Return accuracy over the hypotheses that annotators agreed on."""
        return share_right(self.label, answers)

    def results(self, answers: Mapping[int, Any]) -> bytes:
        """Return JSON: pairID and the label's name of each hypothesis."""
        rows = [
            {"pairID": self.items[n].pair_id, "prediction": LABELS[answer]} for n, answer in sorted(answers.items())
        ]
        return encode_json(rows)


def open_task(name: str, files: TaskFiles, split: str, like: Task | None) -> SnliVeTask:
    """Read the hypotheses of a split."""
    return SnliVeTask(name, read_snli_ve(files.folder, split))
