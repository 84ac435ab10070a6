"""The items of several tasks, without training items about images that any of the tasks holds out."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from vilbert.pipeline.finetune.multitask.leaks import (
    images_of,
    name_of,
    read_image_ids,
    read_image_names,
    without_leaks,
)
from vilbert.pipeline.finetune.multitask.settings import TaskEntry
from vilbert.pipeline.finetune.run import open_items, open_split
from vilbert.pipeline.tasks.annotation_files import AbsentError
from vilbert.pipeline.tasks.registry import find_task
from vilbert.pipeline.tasks.task import Task

logger = logging.getLogger(__name__)

FILES = (".json", ".txt")
"""Endings of what `leave_out` takes for a file of image ids, and not for a split."""


def open_all(entries: Sequence[TaskEntry]) -> list[tuple[Task, Task | None]]:
    """Read the training items of each task, and the evaluation items if there are any.

    Raises:
        RefusedError: Files are missing or damaged, or a task has no training items without held-out images.
    """
    opened = [open_items(one.settings) for one in entries]
    names = [read_image_names(one.image_names) for one in entries]
    held_out: dict[str, str] = {}
    for one, (task, evaluated), known_as in zip(entries, opened, names, strict=True):
        for by, images in held_out_by(one, task, evaluated).items():
            logger.info("%s holds out %d images", by, len(images))
            for image in images:
                held_out.setdefault(name_of(task.name, image, known_as), by)
    return [
        (without_leaks(task, held_out, known_as, split=one.settings.split), evaluated)
        for one, (task, evaluated), known_as in zip(entries, opened, names, strict=True)
    ]


def held_out_by(entry: TaskEntry, task: Task, evaluated: Task | None) -> dict[str, list[str]]:
    """Return the images that a task holds out, by what holds them out.

    These are the images of its evaluation split and those of `leave_out`, by default of the task's test splits.
    """
    found = {} if evaluated is None else {f"{task.name} {entry.settings.eval_split}": images_of(evaluated)}
    if entry.leave_out is None:
        return found | _test_images(entry, task)
    for name in entry.leave_out:
        if name.endswith(FILES):
            found[name] = read_image_ids(Path(name))
        else:
            found[f"{task.name} {name}"] = images_of(open_split(entry.settings, name, like=task))
    return found


def _test_images(entry: TaskEntry, task: Task) -> dict[str, list[str]]:
    """Return the images of the task's test splits by split. A warning names each split whose images are unknown."""
    found = {}
    for name in find_task(task.name).test_splits:
        try:
            images = images_of(open_split(entry.settings, name, like=task))
        except AbsentError as error:
            why = str(error)
        else:
            if not set(images_of(task)) <= set(images):
                found[f"{task.name} {name}"] = images
                continue
            why = "its file names no splits"
        logger.warning(
            "%s: images of its %s split may train other tasks (%s); exclude them with leave_out", task.name, name, why
        )
    return found
