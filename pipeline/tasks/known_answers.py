"""Check that the answers of a classifier match the annotations, for tasks with a fixed list of answers (VQA, GQA).

A question whose answer has no class trains all classes towards 0 and always counts as wrong; a few are normal. With a
list of other answers, or the same answers in another order, metrics would be meaningless.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.tasks.task import Task
from vilbert.pipeline.tasks.task_card import TASK_FILE, read_task_cards

logger = logging.getLogger(__name__)

AT_A_TIME = 8192
SHOWN = 5


def all_targets(task: Task) -> Iterator[dict[str, Tensor]]:
    """Yield the targets of all items in chunks, without information about their images."""
    for start in range(0, len(task.items), AT_A_TIME):
        numbers = range(start, min(start + AT_A_TIME, len(task.items)))
        yield task.targets(numbers, [None] * len(numbers))


def count_known(task: Task) -> tuple[int, int]:
    """Return the number of questions whose answer has a class, and the number of questions with an answer."""
    known = labelled = 0
    for targets in all_targets(task):
        there = targets["labelled"] > 0
        labelled += int(there.sum())
        known += int(((targets["label_ids"] >= 0).any(1) & there).sum())
    return known, labelled


def require_labels(task: Task, *, where: str) -> None:
    """Raise RefusedError if no item has an answer, as in a split whose answers are not public.

    Args:
        task: The task.
        where: The option that selects the split, for the message.
    """
    for targets in all_targets(task):
        if targets.keys().isdisjoint({"label", "labelled"}) or task.count(targets):  # or the task has no labels
            return
    raise RefusedError(f"{where}: none of its {len(task.items):,} items has an answer; choose a split that has them")


def compare_answers(task: Task, labels: Sequence[str], *, where: str, of: str, learns: bool) -> None:
    """Warn if questions have no answer in the classifier; split without public answers are ignored.

    Args:
        task: The task.
        labels: Answers of the classifier.
        where: The annotations, for the message.
        of: Owner of `labels`, for the message.
        learns: Whether the classifier will be trained on the questions.

    Raises:
        RefusedError: `learns` is set and no question has an answer in the classifier.
    """
    known, labelled = count_known(task)
    if known == labelled:
        return
    unknown = f"{labelled - known:,} of {labelled:,} questions have no answer among the {len(labels):,} of {of}"
    if known:
        logger.warning("%s: %s; their predictions count as wrong", where, unknown)
        return
    some = ", ".join(map(repr, labels[:SHOWN]))
    message = f"{where}: {unknown} ({some}, ...), so the annotations do not match the answers"
    if learns:
        raise RefusedError(f"{message}; give other annotations, or other --answers")
    logger.warning("%s; the metrics below are meaningless", message)


def require_classes(task: Task, config: Any, *, folder: Path) -> None:
    """Raise RefusedError if a trained model's number of classes differs from the number of answers in its card."""
    for name, size in task.head_sizes.items():
        classes = getattr(config, name)
        if classes != size:
            raise RefusedError(
                f"{folder}: {TASK_FILE} names {size:,} answers and the classifier has {classes:,} classes: "
                "they do not belong to one run; give a run of `vilbert finetune`"
            )


def require_same_order(task: Task, init_from: str) -> None:
    """Raise RefusedError if the initial classifier has equally many but different or reordered answers.

    Its weights would be used for the wrong answers. A classifier of another size is initialised randomly, with a
    message.
    """
    labels = tuple(getattr(task, "labels", ()))
    if not labels or not (Path(init_from) / TASK_FILE).is_file():
        return
    cards = read_task_cards(Path(init_from))
    before = {card.task: card.labels for card in cards}.get(task.name, labels)
    if len(before) == len(labels) and before != labels:
        at = next(number for number, pair in enumerate(zip(before, labels, strict=True)) if pair[0] != pair[1])
        raise RefusedError(
            f"--init-from {init_from}: its classifier has {len(before):,} answers as here, but class {at} is "
            f"{before[at]!r} there and {labels[at]!r} here; give --answers "
            + (f"{Path(init_from) / TASK_FILE}" if len(cards) == 1 else f"with its labels in {TASK_FILE}, one per line")
        )
