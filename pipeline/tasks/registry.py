"""The tasks by name. docs/extending/task.md shows how a package adds one.

A `TaskSpec` holds the facts of a task that are known without importing torch; the task itself (items, loss, metrics,
submission) is imported when it is opened. Everything else in the software reads the spec and the task's methods.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from vilbert.pipeline.errors import RefusedError
from vilbert.plugins import PluginError, Registry

if TYPE_CHECKING:
    from vilbert.pipeline.tasks.task import Task

TASKS = Registry(
    kind="task",
    group="vilbert.tasks",
    built_in={
        "vqa": "vilbert.pipeline.tasks.vqa.spec:VQA",
        "gqa": "vilbert.pipeline.tasks.gqa.spec:GQA",
        "vcr-qa": "vilbert.pipeline.tasks.vcr.spec:VCR_QA",
        "vcr-qar": "vilbert.pipeline.tasks.vcr.spec:VCR_QAR",
        "refcoco": "vilbert.pipeline.tasks.refer.spec:REFCOCO",
        "refcoco+": "vilbert.pipeline.tasks.refer.spec:REFCOCO_PLUS",
        "refcocog": "vilbert.pipeline.tasks.refer.spec:REFCOCOG",
        "retrieval": "vilbert.pipeline.tasks.retrieval.spec:FLICKR30K",
        "retrieval-coco": "vilbert.pipeline.tasks.retrieval.spec:COCO",
        "captioning": "vilbert.pipeline.tasks.captioning.spec:CAPTIONING",
        "nlvr2": "vilbert.pipeline.tasks.nlvr2.spec:NLVR2",
        "snli-ve": "vilbert.pipeline.tasks.snli_ve.spec:SNLI_VE",
    },
)

MULTITASK = "multitask"
"""What the command line calls a run of several of them."""

GivenBoxes = Literal["unused", "candidates", "averaged"]
"""What a task does with regions at given boxes: nothing, show them beside the detector's, or also average them into
the feature of the whole image."""

Prediction = Literal["answer", "choose", "point", "rank", "describe", "judge"]
"""The method of `Predictor` that asks a model of the task. answer: one of many labels, by independent sigmoids. choose:
one of the options given. point: a region. rank: photographs by how well a caption matches. describe: a caption. judge:
whether a statement is true of two photographs."""


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """The facts of a task, in a module that imports nothing heavy."""

    open: Callable[[str, TaskFiles, str, Any], Any] | str
    """Reads a split, `open(name, files, split, like) -> Task`, or `module:function` that does; see `open_task`."""
    head: str
    """The output of `ViLBertForTasks` that the task reads."""
    prediction: Prediction | None = None
    """How `vilbert predict` asks a model of the task; None: it does not."""
    token: int | None = None
    """The row of the task embedding. 0 to 15 are those of 12-in-1 and captioning; None: not for models with one."""
    labels: tuple[str, ...] = ()
    """The names of the classes, where these are always the same."""
    labels_setting: str | None = None
    """The setting of the model's config that counts the answers, where these are collected from training."""
    given_boxes: GivenBoxes = "unused"
    """Whether --given-data is an option."""
    takes_names: bool = False
    """Whether people are given names, so that --names is an option."""
    takes_answers: bool = False
    """Of `choose`: whether each question comes with an answer, for which a reason is chosen."""
    causal: bool = False
    """Whether a word attends only to those before it."""
    task_heads: tuple[str, ...] = ("beta", "multitask")
    """The sets of published classifiers that have its head."""
    image_ids: str | None = None
    """A name for its image ids, where these are numbered independently of COCO's."""
    test_splits: tuple[str, ...] = ()
    """Splits whose images other tasks must not be trained on, as far as they could be."""
    evaluation: str | None = None
    """`module:function` that evaluates it, where that is more than an answer to each item."""
    recipes: Path | None = None
    """A folder of settings: `default.yaml` applies without being asked for, NAME.yaml with --config NAME. By default
    recipes/finetune/TASK of this package."""
    main_metric: str = "accuracy"
    """The metric that a report begins with."""
    about_metrics: str = ""
    """What a report says about the metrics."""


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


def find_task(name: str) -> TaskSpec:
    """Return the spec of a task.

    Raises:
        RefusedError: There is no such task, or its package cannot be imported.
    """
    try:
        found = TASKS.load(name)
    except PluginError as error:
        raise RefusedError(str(error)) from error
    if not isinstance(found, TaskSpec):
        raise RefusedError(f"task {name!r}: expected a TaskSpec, found {type(found).__name__}")
    return found


def prediction_of(name: str) -> Prediction | None:
    """Return how `Predictor` asks a model of a task."""
    return find_task(name).prediction


def require_prediction(name: str) -> None:
    """Raise ValueError where `vilbert predict` does not ask models of the task."""
    if prediction_of(name) is None:
        raise ValueError(f"predict {name}: reads its items from files; use `vilbert evaluate {name}`")


def task_token(name: str) -> int:
    """Return a task's row of the task embedding; RefusedError if it has none."""
    token = find_task(name).token
    if token is None:
        raise RefusedError(f"task {name}: has no row of the task embedding; its TaskSpec needs a `token`")
    return token


def open_task(name: str, files: TaskFiles, split: str, *, like: Task | None) -> Task:
    """Read a split of a task.

    like: the same task over the items that train, whose answers are those of the classifier; None where these are
    they, and then training items may be shown otherwise. Raises RefusedError where files are missing or damaged.
    """
    opened: Task = imported(find_task(name).open)(name, files, split, like)
    return opened


def imported(function: Callable[..., Any] | str) -> Callable[..., Any]:
    """Return a function of a spec, imported where it is given as `module:function`."""
    if callable(function):
        return function
    module, _, attribute = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found
