"""Do the answers of a classifier go with the annotations? VQA and GQA choose among answers that are known by class.

A question whose answer has no class teaches that all are wrong, and can never be told right; a few are usual. A list of
other answers, or of the same in another order, would give figures that mean nothing.
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
    """Yield the targets of all items, some at a time, as far as they do not depend on what is shown."""
    for start in range(0, len(task.items), AT_A_TIME):
        numbers = range(start, min(start + AT_A_TIME, len(task.items)))
        yield task.targets(numbers, [None] * len(numbers))


def count_known(task: Task) -> tuple[int, int]:
    """Return how many questions have an answer that is of a class, and how many have an answer at all."""
    known = labelled = 0
    for targets in all_targets(task):
        there = targets["labelled"] > 0
        labelled += int(there.sum())
        known += int(((targets["label_ids"] >= 0).any(1) & there).sum())
    return known, labelled


def require_labels(task: Task, *, where: str) -> None:
    """Raise RefusedError where no item has an answer, as in a split whose answers its server keeps.

    where: the option that names the split, for the message.
    """
    for targets in all_targets(task):
        if targets.keys().isdisjoint({"label", "labelled"}) or task.count(targets):  # or its truth is no label
            return
    raise RefusedError(f"{where}: none of its {len(task.items):,} items has an answer; choose a split that has them")


def compare_answers(task: Task, labels: Sequence[str], *, where: str, of: str, learns: bool) -> None:
    """Warn where questions have no answer of the classifier's; nothing is said where answers are secret.

    where: the annotations, and of: whose answers `labels` are, for messages. learns: whether the classifier is to learn
    from them: then RefusedError where no question has one of its answers.
    """
    known, labelled = count_known(task)
    if known == labelled:
        return
    unknown = f"{labelled - known:,} of {labelled:,} questions have no answer among the {len(labels):,} of {of}"
    if known:
        logger.warning("%s: %s; their predictions count as wrong", where, unknown)
        return
    some = ", ".join(map(repr, labels[:SHOWN]))
    message = f"{where}: {unknown} ({some}, ...): one does not belong to the other"
    if learns:
        raise RefusedError(f"{message}; give other annotations, or other --answers")
    logger.warning("%s; the metrics below are meaningless", message)


def require_classes(task: Task, config: Any, *, folder: Path) -> None:
    """Raise RefusedError where a trained model has another number of classes than its card has answers."""
    for name, size in task.head_sizes.items():
        classes = getattr(config, name)
        if classes != size:
            raise RefusedError(
                f"{folder}: {TASK_FILE} names {size:,} answers and the classifier has {classes:,} classes: "
                "they do not belong to one run; give a run of `vilbert finetune`"
            )


def require_same_order(task: Task, init_from: str) -> None:
    """Raise RefusedError where the classifier to begin with has as many answers, but others or in another order.

    It would be taken for that of the answers here. One of another size begins anew, which is said where it is loaded.
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
