"""Items with one right option: what tasks that choose among options share.

The scores of the options, [I, O], come from a head. They are trained as alternatives (cross-entropy over the options:
VCR, retrieval) or, where `independent`, as yes-or-no questions for each class (NLVR2, SNLI-VE).
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
    """A task whose items each have one right option; the answer is its number."""

    head: str
    """The output of the model with the scores."""
    choices: int
    """O, how many options there are to choose from."""
    independent = False
    """Whether each option is trained as a yes-or-no question of its own."""

    def scores(self, output: ViLBertForTasksOutput) -> Tensor:
        """Return the scores of the options, [I, O]."""
        scores: Tensor | None = getattr(output, self.head)
        assert scores is not None
        return scores.view(-1, self.choices)

    def targets(self, numbers: Sequence[int], shown: Sequence[Shown | None]) -> dict[str, Tensor]:
        """Return label int64 [I], -1 where it is not known."""
        return label_targets(self.label, numbers)

    def count(self, targets: Mapping[str, Tensor]) -> int:
        """Return what the mean is over: the labelled items, or each class of them."""
        return labelled(targets) * (self.choices if self.independent else 1)

    def loss(self, output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> Tensor:
        """Return cross-entropy over the options, or binary cross-entropy of each, summed."""
        loss = binary_loss if self.independent else choice_loss
        return loss(self.scores(output), targets["label"])

    def answers(self, output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> list[Any]:
        """Return the number of the option that scores highest."""
        return self.scores(output).argmax(1).tolist()

    def figures(self, answers: Mapping[int, Any]) -> dict[str, float]:
        """Return accuracy over the items whose label is known."""
        return share_right(self.label, answers)
