"""GQA (Hudson & Manning 2019) as classification over frequent answers, each question having one answer."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vilbert.model.outputs import ViLBertForTasksOutput
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.tasks.gqa.files import GqaQuestion, build_gqa_vocabulary, gqa_results, read_gqa
from vilbert.pipeline.tasks.gqa.metrics import CHOICES_FILE, Choices, gqa_figures, read_choices
from vilbert.pipeline.tasks.losses import soft_answer_loss
from vilbert.pipeline.tasks.registry import TaskFiles
from vilbert.pipeline.tasks.task import Rows, Shown, Task, TaskBase, text_of
from vilbert.pipeline.tasks.vqa.answers import load_vocabulary


class GqaTask(TaskBase):
    """Questions of one split; the answer is one of `labels`."""

    head = "vil_prediction_gqa"

    def __init__(
        self,
        name: str,
        items: Sequence[GqaQuestion],
        labels: Sequence[str],
        choices: Mapping[str, Choices] | None = None,
    ) -> None:
        """Create the task.

        Args:
            name: Name of the task.
            items: The questions.
            labels: Answers of the classifier by class.
            choices: Choices by question id, see `gqa_figures`.
        """
        self.name = name
        self.items = items
        self._choices = choices
        self.labels = tuple(labels)
        self.head_sizes: Mapping[str, int] = {"num_gqa_answers": len(self.labels)}
        self._label_of = {answer: label for label, answer in enumerate(self.labels)}

    def rows(self, number: int, key: np.uint64) -> Rows:
        """Return the question with its image."""
        item = self.items[number]
        return Rows(((item.text,),), (item.image_id,))

    def targets(self, numbers: Sequence[int], shown: Sequence[Shown | None]) -> dict[str, Tensor]:
        """Return label_ids, int64 [I, 1], -1 for an answer without a class, and labelled, float32 [I]."""
        answers = [self.items[number].answer if number >= 0 else None for number in numbers]
        ids = [-1 if answer is None else self._label_of.get(answer, -1) for answer in answers]
        return {
            "label_ids": torch.tensor(ids)[:, None],
            "labelled": torch.tensor([float(answer is not None) for answer in answers]),
        }

    def count(self, targets: Mapping[str, Tensor]) -> int:
        """Return the number of questions with an answer."""
        return int(targets["labelled"].sum())

    def loss(self, output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> Tensor:
        """Return binary cross-entropy over all answers, summed over questions."""
        assert output.vil_prediction_gqa is not None
        ids = targets["label_ids"]
        return soft_answer_loss(output.vil_prediction_gqa, ids, torch.ones_like(ids).float(), targets["labelled"])

    def answers(self, output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> list[Any]:
        """Return the most probable answer of each question."""
        assert output.vil_prediction_gqa is not None
        return [self.labels[best] for best in output.vil_prediction_gqa.argmax(1).tolist()]

    def figures(self, answers: Mapping[int, Any]) -> dict[str, float]:
        """Return the official metrics; empty if the answers are not public."""
        questions = [self.items[number] for number in sorted(answers)]
        given = {self.items[n].question_id: answer for n, answer in answers.items()}
        return gqa_figures(questions, given, self._choices)

    def results(self, answers: Mapping[int, Any]) -> bytes:
        """Return the official results file, JSON: questionId and prediction of each question."""
        return encode_json(gqa_results({self.items[n].question_id: answer for n, answer in answers.items()}))

    def item_key(self, item: GqaQuestion) -> Hashable:
        """Return the question's identifier."""
        return item.question_id

    def read_row(self, row: Any) -> tuple[Hashable, str]:
        """Return the question's identifier and its answer."""
        return row["questionId"], text_of(row["prediction"])

    def has_truth(self, number: int) -> bool:
        """Return whether the answer is known."""
        return self.items[number].answer is not None

    def score(self, number: int, answer: str) -> float:
        """Return 1 for the right answer."""
        return float(answer == self.items[number].answer)

    def true_texts(self, number: int) -> list[str]:
        """Return the right answer."""
        answer = self.items[number].answer
        return [] if answer is None else [answer]


def open_task(name: str, files: TaskFiles, split: str, like: Task | None) -> GqaTask:
    """Read a split; the classifier's answers are those of `like`, the given ones, or the most frequent ones."""
    questions = read_gqa(files.folder, split)
    if isinstance(like, GqaTask):
        return GqaTask(name, questions, like.labels)
    if files.labels:
        path = files.folder / CHOICES_FILE.format(split.removesuffix("_all"))
        return GqaTask(name, questions, files.labels, read_choices(path, questions) if path.is_file() else None)
    if files.answers is not None:
        return GqaTask(name, questions, load_vocabulary(files.answers))
    if all(question.answer is None for question in questions):
        raise RefusedError(f"{files.folder}: the answers of the {split} split are not public; train on another --split")
    labels = build_gqa_vocabulary(questions, least=files.least_answers)
    if not labels:
        raise RefusedError(
            f"{files.folder}: no answer of the {split} split occurs {files.least_answers} times; give a "
            "lower --min-answer-count, or --answers"
        )
    return GqaTask(name, questions, labels)
