"""Visual question answering: VQA v2 (Goyal et al. 2017) as classification over frequent answers with soft scores."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vilbert.model.outputs import ViLBertForTasksOutput
from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.tasks.losses import soft_answer_loss
from vilbert.pipeline.tasks.registry import TaskFiles
from vilbert.pipeline.tasks.task import Rows, Shown, Task, TaskBase, text_of
from vilbert.pipeline.tasks.vqa.answers import build_vocabulary, load_vocabulary, soft_targets, strip
from vilbert.pipeline.tasks.vqa.files import Question, read_questions, read_trainval
from vilbert.pipeline.tasks.vqa.metrics import accuracy, question_accuracy, results

MOST_TRUTHS = 3
"""People's answers that a report lists for a question."""
MOST_LABELS = 10
"""Classes that the targets of a question hold at least: as many as people answer in the published files."""


class VqaTask(TaskBase):
    """Questions of one split; the answer is one of `labels`."""

    head = "vil_prediction"

    def __init__(self, name: str, items: Sequence[Question], labels: Sequence[str]) -> None:
        """Take questions, and the answers of the classifier by class."""
        self.name = name
        self.items = items
        self.labels = tuple(labels)
        self.head_sizes: Mapping[str, int] = {"num_answers": len(self.labels)}
        self._label_of = {answer: label for label, answer in enumerate(self.labels)}
        self._most_labels = max(MOST_LABELS, max((len(question.answers) for question in items), default=0))

    def rows(self, number: int, key: np.uint64) -> Rows:
        """Return the question before its image."""
        item = self.items[number]
        return Rows(((item.text,),), (item.image_id,))

    def targets(self, numbers: Sequence[int], shown: Sequence[Shown | None]) -> dict[str, Tensor]:
        """Return label_ids int64 [I, L], padded by -1, label_scores float32 [I, L] and labelled float32 [I].

        L: 10, or as many as the most answers to a question.
        """
        ids = np.full((len(numbers), self._most_labels), -1, dtype=np.int64)
        scores = np.zeros((len(numbers), self._most_labels), dtype=np.float32)
        labelled = np.zeros(len(numbers), dtype=np.float32)
        for row, number in enumerate(numbers):
            if number < 0 or not self.items[number].answers:
                continue
            found, values = soft_targets(self.items[number].answers, self._label_of)
            ids[row, : len(found)], scores[row, : len(found)] = found, values
            labelled[row] = 1
        return {
            "label_ids": torch.from_numpy(ids),
            "label_scores": torch.from_numpy(scores),
            "labelled": torch.from_numpy(labelled),
        }

    def count(self, targets: Mapping[str, Tensor]) -> int:
        """Return the questions that have answers."""
        return int(targets["labelled"].sum())

    def loss(self, output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> Tensor:
        """Return binary cross-entropy over all answers, summed over questions."""
        assert output.vil_prediction is not None
        return soft_answer_loss(
            output.vil_prediction, targets["label_ids"], targets["label_scores"], targets["labelled"]
        )

    def answers(self, output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> list[Any]:
        """Return the most probable answer of each question."""
        assert output.vil_prediction is not None
        return [self.labels[best] for best in output.vil_prediction.argmax(1).tolist()]

    def figures(self, answers: Mapping[int, Any]) -> dict[str, float]:
        """Return the official accuracy, of all questions and by type of answer; nothing where answers are secret."""
        questions = [self.items[number] for number in sorted(answers)]
        if not questions or not questions[0].answers:
            return {}
        return accuracy(questions, {self.items[number].question_id: answer for number, answer in answers.items()})

    def results(self, answers: Mapping[int, Any]) -> bytes:
        """Return the official file of results, JSON: question_id and answer of each question."""
        return encode_json(results({self.items[number].question_id: answer for number, answer in answers.items()}))

    def item_key(self, item: Question) -> Hashable:
        """Return the question's identifier."""
        return item.question_id

    def read_row(self, row: Any) -> tuple[Hashable, str]:
        """Return the question's identifier and its answer."""
        return row["question_id"], text_of(row["answer"])

    def has_truth(self, number: int) -> bool:
        """Return whether people's answers are known."""
        return bool(self.items[number].answers)

    def score(self, number: int, answer: str) -> float:
        """Return the official accuracy of an answer."""
        return float(question_accuracy(answer, self.items[number].answers))

    def true_texts(self, number: int) -> list[str]:
        """Return the most frequent answer."""
        return [text for text, _ in Counter(map(strip, self.items[number].answers)).most_common(1)]

    def people(self, number: int) -> tuple[str, ...]:
        """Return people's most frequent answers on one line, each with how often it was given."""
        count = Counter(map(strip, self.items[number].answers))
        return (", ".join(f"{text} ({times} of {count.total()})" for text, times in count.most_common(MOST_TRUTHS)),)


def open_task(name: str, files: TaskFiles, split: str, like: Task | None) -> VqaTask:
    """Read the questions of a split; the classifier's answers are those of `like`, given ones, or frequent ones."""
    questions, held_out = (
        read_trainval(files.folder) if split == "trainval" else (read_questions(files.folder, split), [])
    )
    if isinstance(like, VqaTask):
        return VqaTask(name, questions, like.labels)
    if files.labels:
        return VqaTask(name, questions, files.labels)
    if files.answers is not None:
        return VqaTask(name, questions, load_vocabulary(files.answers))
    # The published answers were counted over train and val, questions that are held out of trainval included.
    counted = [*questions, *held_out]
    labels = build_vocabulary(
        (question.multiple_choice_answer for question in counted if question.multiple_choice_answer is not None),
        least=files.least_answers,
    )
    if not labels:
        raise RefusedError(
            f"{files.folder}: no answer of the {split} split occurs {files.least_answers} times; give a "
            "lower --min-answer-count, or --answers"
        )
    return VqaTask(name, questions, labels)
