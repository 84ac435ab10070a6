"""SNLI-VE (Xie et al. 2019): does an image entail a sentence, contradict it, or neither?"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from vilbert.pipeline.shards.canonical import encode_json
from vilbert.pipeline.tasks.choice import ChoiceTask
from vilbert.pipeline.tasks.registry import TaskFiles
from vilbert.pipeline.tasks.snli_ve.files import Hypothesis, read_snli_ve
from vilbert.pipeline.tasks.snli_ve.spec import LABELS
from vilbert.pipeline.tasks.task import Rows, Task


class SnliVeTask(ChoiceTask):
    """Hypotheses of one split; the answer is an index into `LABELS`."""

    head = "vil_tri_prediction"
    choices = len(LABELS)
    independent = True

    def __init__(self, name: str, items: Sequence[Hypothesis]) -> None:
        """Create the task from hypotheses."""
        self.name = name
        self.items = items

    def images(self, item: Hypothesis) -> tuple[str, ...]:
        """Return the image that is the premise."""
        return (item.image_id,)

    def rows(self, number: int, key: np.uint64) -> Rows:
        """Return the hypothesis with its image."""
        item = self.items[number]
        return Rows(((item.text,),), (item.image_id,))

    def label(self, number: int) -> int | None:
        """Return the index of the label, None if annotators disagree."""
        label: int | None = self.items[number].label
        return label

    def results(self, answers: Mapping[int, Any]) -> bytes:
        """Return JSON: pairID and the label's name of each hypothesis."""
        rows = [
            {"pairID": self.items[n].pair_id, "prediction": LABELS[answer]} for n, answer in sorted(answers.items())
        ]
        return encode_json(rows)

    def item_key(self, item: Hypothesis) -> str:
        """Return the pair's identifier."""
        return item.pair_id

    def read_row(self, row: Any) -> tuple[Hashable, int]:
        """Return the pair's identifier and the index of the label."""
        return row["pairID"], LABELS.index(row["prediction"])

    def true_texts(self, number: int) -> list[str]:
        """Return the label that annotators agreed on."""
        label = self.label(number)
        return [] if label is None else [LABELS[label]]

    def spell(self, answer: int) -> str:
        """Return the label's name."""
        return LABELS[answer]


def open_task(name: str, files: TaskFiles, split: str, like: Task | None) -> SnliVeTask:
    """Read the hypotheses of a split."""
    return SnliVeTask(name, read_snli_ve(files.folder, split))
