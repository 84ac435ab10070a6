"""Captioning: with causal attention, the text stream predicts the next token at each position.

The model is trained on each caption of an image. Regions attend to [CLS] only, so no token reaches an earlier one
through the image. `vilbert evaluate captioning` (`pipeline/evaluate/captioning.py`) generates captions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from vilbert.model.outputs import ViLBertForTasksOutput
from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.tasks.captioned_images import CaptionedImage, read_captioned_images
from vilbert.pipeline.tasks.losses import next_word_loss
from vilbert.pipeline.tasks.registry import TaskFiles
from vilbert.pipeline.tasks.task import Rows, Shown, Task, TaskBase, text_of


class Caption(NamedTuple):
    """One caption of an image."""

    image_id: str
    text: str


class CaptioningTask(TaskBase):
    """Captions of one split; the answer is the number of tokens predicted correctly with teacher forcing."""

    head = "linguisic_prediction"
    causal = True
    metric = "next_word_accuracy"
    answers_images = True

    def __init__(self, name: str, captioned: Sequence[CaptionedImage]) -> None:
        """Create the task from images with captions."""
        self.name = name
        self.captioned = captioned
        self.items: Sequence[Caption] = [
            Caption(image.image_id, text) for image in captioned for text in image.captions
        ]

    def rows(self, number: int, key: np.uint64) -> Rows:
        """Return the caption with its image."""
        item = self.items[number]
        return Rows(((item.text,),), (item.image_id,))

    def targets(self, numbers: Sequence[int], shown: Sequence[Shown | None]) -> dict[str, Tensor]:
        """Return nothing: the targets are the next tokens of the text itself, int64 [I, T] under `next_words`."""
        return {}

    def count(self, targets: Mapping[str, Tensor]) -> int:
        """Return the number of tokens to predict, including the ends of captions."""
        return int((targets["next_words"] >= 0).sum())

    def loss(self, output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> Tensor:
        """Return the summed cross-entropy of the next tokens."""
        return next_word_loss(word_scores(output, targets), targets["next_words"])

    def answers(self, output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> list[Any]:
        """Return [correct tokens, tokens] for each caption."""
        truth = targets["next_words"]
        right = (word_scores(output, targets).argmax(-1) == truth) & (truth >= 0)
        return [list(pair) for pair in zip(right.sum(1).tolist(), (truth >= 0).sum(1).tolist(), strict=True)]

    def figures(self, answers: Mapping[int, Any]) -> dict[str, float]:
        """Return the accuracy of the next tokens; empty if no token is labelled."""
        right, words = (sum(answer[which] for answer in answers.values()) for which in (0, 1))
        return {"next_word_accuracy": right / words} if words else {}

    def results(self, answers: Mapping[int, Any]) -> bytes:
        """Return JSON: image_id, caption and its [correct tokens, tokens]."""
        rows = [{**self.items[number]._asdict(), "told": answers[number]} for number in sorted(answers)]
        return encode_json(rows)

    def item_key(self, item: Caption) -> str:
        """Return the image id; `vilbert evaluate` writes one caption per image."""
        return item.image_id

    def read_row(self, row: Any) -> tuple[str, str]:
        """Return the image id and its caption."""
        return str(row["image_id"]), text_of(row["caption"])

    def has_truth(self, number: int) -> bool:
        """Return True: the annotations contain captions."""
        return True

    def score(self, number: int, answer: str) -> float:
        """Return the ROUGE-L of a caption with the reference captions."""
        return overlap(answer, self.people(number))

    def people(self, number: int) -> tuple[str, ...]:
        """Return the reference captions of the item's image."""
        image_id = self.items[number].image_id
        return tuple(next(image.captions for image in self.captioned if image.image_id == image_id))


def overlap(caption: str, truths: Sequence[str]) -> float:
    """Return the ROUGE-L of a caption with reference captions, for lower-case words without punctuation."""
    from vilbert.pipeline.tasks.captioning.metrics import require_pycocoevalcap, words_without_java

    require_pycocoevalcap()
    from pycocoevalcap.rouge.rouge import Rouge

    said = words_without_java(caption)
    if not said:
        return 0.0
    return float(Rouge().calc_score([said], [words_without_java(truth) for truth in truths]))


def word_scores(output: ViLBertForTasksOutput, targets: Mapping[str, Tensor]) -> Tensor:
    """Return the scores of next tokens [I, T, V], without the position of a task token, which follows [CLS]."""
    scores = output.linguisic_prediction
    assert scores is not None
    if scores.shape[1] == targets["next_words"].shape[1]:
        return scores
    return torch.cat([scores[:, :1], scores[:, 2:]], dim=1)


def open_task(name: str, files: TaskFiles, split: str, like: Task | None) -> CaptioningTask:
    """Read the captions of a split."""
    return CaptioningTask(name, read_captioned_images(files.folder, split))
