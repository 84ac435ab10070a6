"""The registry of tasks. docs/extending/task.md shows how a package adds one.

A `TaskSpec` holds the properties of a task that must be known without importing torch; the task itself (items, loss,
metrics, submission) is imported when it is opened. All other code uses only the spec and the task's methods.
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
"""Name of a multi-task run on the command line."""

GivenBoxes = Literal["unused", "candidates", "averaged"]
"""How a task uses regions at given boxes: not at all, in addition to the detected ones, or also in the mean feature of
the whole image."""

Prediction = Literal["answer", "choose", "point", "rank", "describe", "judge"]
"""The `Predictor` method of a task. answer: one of many labels, by independent sigmoids. choose: one of the given
options. point: a region. rank: images by how well a caption matches. describe: a caption. judge: whether a statement is
true of two images."""


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """The properties of a task, defined in a module without heavy imports."""

    open: Callable[[str, TaskFiles, str, Any], Any] | str
    """Function that reads a split, `open(name, files, split, like) -> Task`, or `module:function`; see `open_task`."""
    head: str
    """The output of `ViLBertForTasks` that the task reads."""
    prediction: Prediction | None = None
    """Prediction method of `vilbert predict`; None: not supported."""
    token: int | None = None
    """Row of the task embedding (0 to 15: 12-in-1 and captioning); None: models with task tokens cannot be used."""
    labels: tuple[str, ...] = ()
    """Names of the classes, if they are fixed."""
    labels_setting: str | None = None
    """Config setting with the number of answers, if they are collected from the training data."""
    given_boxes: GivenBoxes = "unused"
    """Whether --given-data is an option."""
    takes_names: bool = False
    """Whether people in texts get names, so that --names is an option."""
    takes_answers: bool = False
    """For `choose`: whether each question comes with an answer for which a reason is chosen."""
    causal: bool = False
    """Whether tokens attend only to previous tokens."""
    task_heads: tuple[str, ...] = ("beta", "multitask")
    """The sets of published classifiers that contain its head."""
    image_ids: str | None = None
    """Namespace of its image ids, if they are numbered independently of COCO's."""
    test_splits: tuple[str, ...] = ()
    """Splits whose images must not be used to train other tasks."""
    evaluation: str | None = None
    """`module:function` that evaluates it, if there is more to do than to predict each item."""
    recipes: Path | None = None
    """Folder of recipes: `default.yaml` applies by default, NAME.yaml with --config NAME. Default:
    recipes/finetune/TASK of this package."""
    main_metric: str = "accuracy"
    """Metric that a report shows first."""
    about_metrics: str = ""
    """Explanation of the metrics in a report."""


@dataclass(frozen=True, kw_only=True)
class TaskFiles:
    """Location of a task's annotations, and how they are read."""

    folder: Path
    """Folder of the annotation files under their published names."""
    seed: int
    """Seed of random draws during reading, such as names of people."""
    names: tuple[str, ...] = ()
    """Names of people; empty: the default names."""
    answers: Path | None = None
    """A published list of answers."""
    least_answers: int = 9
    """Minimum number of occurrences of an answer."""
    labels: tuple[str, ...] = ()
    """Answers of a trained model; they take precedence over `answers`."""


def find_task(name: str) -> TaskSpec:
    """Return the spec of a task.

    Raises:
        RefusedError: The task does not exist, or its package cannot be imported.
    """
    try:
        found = TASKS.load(name)
    except PluginError as error:
        raise RefusedError(str(error)) from error
    if not isinstance(found, TaskSpec):
        raise RefusedError(f"task {name!r}: expected a TaskSpec, found {type(found).__name__}")
    return found


def prediction_of(name: str) -> Prediction | None:
    """Return the `Predictor` method of a task."""
    return find_task(name).prediction


def require_prediction(name: str) -> None:
    """Raise ValueError if `vilbert predict` does not support the task."""
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

    Args:
        name: Name of the task.
        files: Location of the annotations.
        split: Name of the split.
        like: The same task with its training items, whose answers define the classes; None if this split is the
            training split, for which a task may present items differently.

    Raises:
        RefusedError: Files are missing or damaged.
    """
    opened: Task = imported(find_task(name).open)(name, files, split, like)
    return opened


def imported(function: Callable[..., Any] | str) -> Callable[..., Any]:
    """Return a function of a spec, importing it if it is given as `module:function`."""
    if callable(function):
        return function
    module, _, attribute = function.partition(":")
    found: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return found
