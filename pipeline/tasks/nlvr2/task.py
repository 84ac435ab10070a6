"""NLVR2 (Suhr et al. 2019): is a sentence true of two images?

Each image forms a row with the sentence, and the classifier reads the two concatenated fused vectors, as in 12-in-1.
That code puts the regions of both images into one list and splits it, so regions of the right image end up in the left
row if the left image has few; here each image has its own row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vilbert.pipeline.tasks.choice import ChoiceTask
from vilbert.pipeline.tasks.nlvr2.files import NlvrStatement, nlvr2_accuracy, nlvr2_results_csv, read_nlvr2
from vilbert.pipeline.tasks.registry import TaskFiles
from vilbert.pipeline.tasks.task import Rows, Task


class Nlvr2Task(ChoiceTask):
    """Statements of one split; the answer is 1 for true, 0 for false."""

    head = "vil_binary_prediction"
    options = 2
    choices = 2
    independent = True

    def __init__(self, name: str, items: Sequence[NlvrStatement]) -> None:
        """Create the task from statements."""
        self.name = name
        self.items = items

    def images(self, item: NlvrStatement) -> tuple[str, ...]:
        """Return the left and the right image."""
        return item.image_ids

    def rows(self, number: int, key: np.uint64) -> Rows:
        """Return the sentence with each of its images."""
        item = self.items[number]
        return Rows(((item.text,),) * 2, item.image_ids)

    def label(self, number: int) -> int | None:
        """Return 1 for true, 0 for false, None if it is not public."""
        truth = self.items[number].label
        return None if truth is None else int(truth)

    def figures(self, answers: Mapping[int, Any]) -> dict[str, float]:
        """Return accuracy and consistency: the fraction of sentences that are correct for all their image pairs."""
        known = sorted(number for number in answers if self.items[number].label is not None)
        if not known:
            return {}
        statements = [self.items[number] for number in known]
        accuracy, consistency = nlvr2_accuracy(statements, [bool(answers[number]) for number in known])
        return {"accuracy": accuracy, "consistency": consistency}

    def results(self, answers: Mapping[int, Any]) -> bytes:
        """Return the CSV for the official evaluation: identifier and True or False, without a header."""
        numbers = sorted(answers)
        identifiers = [self.items[number].identifier for number in numbers]
        return nlvr2_results_csv(identifiers, [bool(answers[number]) for number in numbers]).encode()

    def item_key(self, item: NlvrStatement) -> str:
        """Return the statement's identifier."""
        return item.identifier

    def read_rows(self, path: Path) -> list[str]:
        """Return the lines of the CSV."""
        return path.read_text(encoding="utf-8").split()

    def read_row(self, row: str) -> tuple[str, int]:
        """Return the identifier, and 1 for True or 0 for False."""
        identifier, _, answer = row.rpartition(",")
        return identifier, ("False", "True").index(answer)


def open_task(name: str, files: TaskFiles, split: str, like: Task | None) -> Nlvr2Task:
    """Read the statements of a split."""
    return Nlvr2Task(name, read_nlvr2(files.folder, split))
