"""The tasks by name, each in a file of its own that is imported when the task is asked for."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vilbert.pipeline.tasks.task import Task

TASKS = {
    "vqa": "vilbert.pipeline.tasks.vqa",
    "gqa": "vilbert.pipeline.tasks.gqa",
    "vcr-qa": "vilbert.pipeline.tasks.vcr",
    "vcr-qar": "vilbert.pipeline.tasks.vcr",
    "refcoco": "vilbert.pipeline.tasks.refer",
    "refcoco+": "vilbert.pipeline.tasks.refer",
    "refcocog": "vilbert.pipeline.tasks.refer",
    "retrieval": "vilbert.pipeline.tasks.retrieval",
    "retrieval-coco": "vilbert.pipeline.tasks.retrieval",
    "captioning": "vilbert.pipeline.tasks.captioning",
    "nlvr2": "vilbert.pipeline.tasks.nlvr2",
    "snli-ve": "vilbert.pipeline.tasks.snli_ve",
}
"""The module of each, whose `open_task(name, files, split, like)` reads it."""

RETRIEVAL = ("retrieval", "retrieval-coco")
"""Two names, that one model may learn both data sets and tell them apart by its task tokens."""

MULTITASK = "multitask"
"""What the command line calls a run of several of them."""


@dataclass(frozen=True, kw_only=True)
class TaskFiles:
    """Where a task's annotations are, and what is chosen of them."""

    folder: Path
    """Of the annotation files, under their published names."""
    seed: int
    """Of what is drawn when they are read, such as names of people."""
    names: tuple[str, ...] = ()
    """What people are called, where it is not by the usual names."""
    answers: Path | None = None
    """A published list of answers."""
    least_answers: int = 9
    """How often an answer must occur to be learnt."""
    labels: tuple[str, ...] = ()
    """The answers of a model that is trained already; they go over `answers`."""


def open_task(name: str, files: TaskFiles, split: str, *, like: Task | None) -> Task:
    """Read a split of a task.

    like: the same task over the items that train, whose answers are those of the classifier; None where these are
    they, and then training items may be shown otherwise. Raises RefusedError where files are missing or damaged.
    """
    opened: Task = importlib.import_module(TASKS[name]).open_task(name, files, split, like)
    return opened
