"""Visual commonsense reasoning (Zellers et al. 2019): four answers to a question, or four reasons for the answer.

Each option is a row: the question, for reasons the right answer behind a separator, and the option in segment 1.
Regions at the boxes of the annotations are shown beside the detector's, where their features are given. Q -> AR is both
right at once, and `joint.py` tells it from the results of both. Where the right answer is secret, reasons are asked
for with each of the four.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from vilbert.model.outputs import ViLBertForTasksOutput
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.tasks.choice import ChoiceTask
from vilbert.pipeline.tasks.labels import share_right
from vilbert.pipeline.tasks.registry import TaskFiles
from vilbert.pipeline.tasks.task import GivenBoxes, Rows, Task, numbers_of
from vilbert.pipeline.tasks.vcr.files import CHOICES, NAMES, VcrQuestion, read_vcr


class VcrItem(NamedTuple):
    """A question, and which answer its reasons are asked for."""

    question: VcrQuestion
    given: int


class VcrTask(ChoiceTask):
    """Questions of one split; the answer is the probability of each of four options."""

    head = "vil_logit"
    options = choices = CHOICES
    given_boxes: GivenBoxes = "averaged"

    def __init__(self, name: str, questions: Sequence[VcrQuestion]) -> None:
        """Take questions; name: vcr-qa to choose answers, vcr-qar reasons."""
        self.name = name
        self.items: Sequence[VcrItem] = [
            VcrItem(question, given) for question in questions for given in self._given(question)
        ]

    def _given(self, question: VcrQuestion) -> Sequence[int]:
        """Return the answers to ask reasons for: the right one, or all where it is secret; one for answers."""
        if self.name == "vcr-qa":
            return (0,)
        return range(CHOICES) if question.answer_label is None else (question.answer_label,)

    def images(self, item: VcrItem) -> tuple[str, ...]:
        """Return the one image that a question is about."""
        return (item.question.image_id,)

    def rows(self, number: int, key: np.uint64) -> Rows:
        """Return the question with each option, before the image."""
        item, given = self.items[number]
        texts: tuple[tuple[str, ...], ...]
        if self.name == "vcr-qa":
            texts = tuple((item.question, answer) for answer in item.answers)
        else:
            texts = tuple((item.question, item.answers[given], rationale) for rationale in item.rationales)
        return Rows(texts, (item.image_id,) * CHOICES)

    def label(self, number: int) -> int | None:
        """Return which option is right, None where it is secret."""
        item = self.items[number].question
        return item.answer_label if self.name == "vcr-qa" else item.rationale_label

    def answers(self, output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> list[Any]:
        """Return four probabilities for each question."""
        return self.scores(output).float().softmax(1).tolist()

    def figures(self, answers: Mapping[int, Any]) -> dict[str, float]:
        """Return accuracy over the questions whose answer is not secret."""
        return share_right(self.label, {number: int(np.argmax(answer)) for number, answer in answers.items()})

    def results(self, answers: Mapping[int, Any]) -> bytes:
        """Return JSON: annot_id, the four probabilities, and, of reasons, the answer that they were asked for."""
        rows = []
        for number, answer in sorted(answers.items()):
            question, given = self.items[number]
            asked = {} if self.name == "vcr-qa" else {"given": given}
            rows.append({"annot_id": question.annot_id, "answer": answer, **asked})
        return encode_json(rows)

    def joint_results(self, path: Path, answers: Mapping[int, Any]) -> tuple[dict[str, float], bytes | None]:
        """Return Q -> AR of these reasons and of the answers in the results of vcr-qa; see `joint.py`."""
        from vilbert.pipeline.tasks.vcr.joint import joint_results

        return joint_results(path, self, answers)

    def item_key(self, item: VcrItem) -> Hashable:
        """Return the question's identifier, and of reasons the answer that they were asked for."""
        annot_id = item.question.annot_id
        return annot_id if self.name == "vcr-qa" else (annot_id, item.given)

    def read_row(self, row: Any) -> tuple[Hashable, list[float]]:
        """Return the key and the four probabilities."""
        key = row["annot_id"] if self.name == "vcr-qa" else (row["annot_id"], row["given"])
        return key, numbers_of(row["answer"], CHOICES)

    def score(self, number: int, answer: Any) -> float:
        """Return 1 where the most probable option is the right one."""
        return float(int(np.argmax(answer)) == self.label(number))


def open_task(name: str, files: TaskFiles, split: str, like: Task | None) -> VcrTask:
    """Read the questions of a split."""
    return VcrTask(name, read_vcr(files.folder, split, seed=files.seed, names=files.names or NAMES))
