"""Choose the items of a report: errors first, then correct answers, both evenly spaced."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np

from vilbert.pipeline.errors import RefusedError
from vilbert.pipeline.report.settings import ReportSettings
from vilbert.pipeline.tasks.registry import prediction_of

T = TypeVar("T")


def choose(
    task: Any, answers: Mapping[int, Any], places: Container[str], settings: ReportSettings
) -> dict[str, list[list[int]]]:
    """Return the items to show by heading, grouped by images: errors first, then correct answers.

    Images of both kinds are taken at equal distances. Captions are not right or wrong: the quarter with the lowest
    scores is shown first.
    """
    there = [
        number
        for number in answers
        if task.has_truth(number) and all(image in places for image in task.images(task.items[number]))
    ]
    if not there:
        raise RefusedError(f"{settings.data}: contains none of the images of {settings.results}")
    scores = {number: task.score(number, answers[number]) for number in there}
    least, headings = 0.5, ("Errors", "Right answers")
    if prediction_of(task.name) == "describe":
        least = float(np.quantile([*scores.values()], 0.25))
        headings = ("Captions that are least like people's", "Other captions")
        wrong = [number for number in there if scores[number] <= least]
    else:
        wrong = [number for number in there if scores[number] < least]
    errors, others = by_photograph(task, wrong), by_photograph(task, [it for it in there if it not in {*wrong}])
    half = max(-(-settings.images // 2), settings.images - len(others))
    first = evenly(errors, half)
    second = evenly(others, settings.images - len(first))
    groups = zip(headings, (first, second), strict=True)
    return {heading: [numbers[: settings.questions] for numbers in found] for heading, found in groups if found}


def by_photograph(task: Any, numbers: Sequence[int]) -> list[list[int]]:
    """Group items by image; items with their own drawings form groups of one."""
    alone = prediction_of(task.name) in ("point", "rank")
    groups: dict[Any, list[int]] = {}
    for number in numbers:
        groups.setdefault(number if alone else task.images(task.items[number]), []).append(number)
    return [*groups.values()]


def evenly(things: Sequence[T], count: int) -> list[T]:
    """Return `count` evenly spaced elements, or all if there are fewer."""
    count = min(count, len(things))
    return [things[(2 * at + 1) * len(things) // (2 * count)] for at in range(count)]
