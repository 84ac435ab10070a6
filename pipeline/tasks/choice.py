"""Base class of tasks whose items have one correct option.

A head computes the scores of the options, [I, O]. The loss is cross-entropy over the options (VCR, retrieval) or, with
`independent`, binary cross-entropy per class (NLVR2, SNLI-VE).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from vilbert.model.outputs import ViLBertForTasksOutput
from vilbert.pipeline.tasks.labels import label_targets, labelled, share_right
from vilbert.pipeline.tasks.losses import binary_loss, choice_loss
from vilbert.pipeline.tasks.task import Shown, TaskBase


class ChoiceTask(TaskBase):
    """A task whose items each have one correct option; the answer is the option's index."""

    head: str
    """Name of the model output with the scores."""
    choices: int
    """O, the number of options."""
    independent = False
    """Whether each option is trained as a binary classification."""

    def scores(self, output: ViLBertForTasksOutput) -> Tensor:
        """Return the scores of the options [I, O]."""
        scores: Tensor | None = getattr(output, self.head)
        assert scores is not None
        return scores.view(-1, self.choices)

    def targets(self, numbers: Sequence[int], shown: Sequence[Shown | None]) -> dict[str, Tensor]:
        """Return the labels, int64 [I], -1 if unknown."""
        return label_targets(self.label, numbers)

    def count(self, targets: Mapping[str, Tensor]) -> int:
        """Return the number of labelled items, times the number of classes if `independent`."""
        return labelled(targets) * (self.choices if self.independent else 1)

    def loss(self, output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> Tensor:
        """Return the summed cross-entropy over the options, or the summed binary cross-entropy of each option."""
        loss = binary_loss if self.independent else choice_loss
        return loss(self.scores(output), targets["label"])

    def answers(self, output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> list[Any]:
        """Return the index of the option with the highest score."""
        return self.scores(output).argmax(1).tolist()

    def figures(self, answers: Mapping[int, Any]) -> dict[str, float]:
        """Return the accuracy over items with a known label."""
        return share_right(self.label, answers)
