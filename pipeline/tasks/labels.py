"""Targets, counts and accuracy of tasks with one label per item."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vilbert.pipeline.tasks.losses import IGNORED


def label_targets(label_of: Callable[[int], int | None], numbers: Sequence[int]) -> dict[str, Tensor]:
    """Return labels, int64 [I], -1 for an item without a label or outside of training."""
    labels = [None if number < 0 else label_of(number) for number in numbers]
    return {"label": torch.tensor([IGNORED if label is None else label for label in labels])}


def labelled(targets: Mapping[str, Tensor]) -> int:
    """Return the number of items with a label."""
    return int((targets["label"] != IGNORED).sum())


def share_right(label_of: Callable[[int], int | None], predicted: Mapping[int, Any]) -> dict[str, float]:
    """Return the accuracy over items with a label; empty if no item has one."""
    pairs = [(label_of(number), answer) for number, answer in predicted.items()]
    known = [(label, answer) for label, answer in pairs if label is not None]
    return {"accuracy": sum(label == answer for label, answer in known) / len(known)} if known else {}
