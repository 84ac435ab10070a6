"""The settings of `vilbert finetune multitask`, and its file of tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import field
from pathlib import Path
from typing import Any, Literal, get_type_hints

from tyro.conf import Positional, Suppress

from vilbert.pipeline.finetune.multitask.stop_and_go import StopAndGoSettings
from vilbert.pipeline.finetune.settings import AnyFinetuneSettings, FinetuneSettings
from vilbert.pipeline.renamed_options import refuse_renamed
from vilbert.pipeline.task_settings import task_settings
from vilbert.pipeline.tasks.registry import MULTITASK, TASKS
from vilbert.settings import PositiveFloat, SettingsError, file_value, validated
from vilbert.untrusted.documents import DocumentError, read_yaml

SHIPPED = Path(__file__).parents[2] / "recipes" / MULTITASK
"""Folder of the files of tasks that are shipped with the package."""
OF_A_TASK = (
    *("task", "annotations", "data", "given_data", "split", "eval_split", "batch_size", "max_tokens", "max_regions"),
    *("max_missing_fraction", "answers", "min_answer_count", "names", "selection"),
)
"""Settings of `vilbert finetune TASK` that an entry may contain, if the task has them."""
OF_THE_RUN = ("leave_out", "image_names", "loss_weight")
"""Additional settings of an entry."""


@validated
class TaskEntry:
    """One task of a multi-task run."""

    settings: FinetuneSettings
    """Settings of this task; by default those of the run."""
    leave_out: tuple[str, ...] | None = None
    """Images that no task of the run may train on, besides those of `eval_split`: splits of this task's annotations,
    and files of image ids (.json: a list; .txt: one per line). None: the test splits of the task that exist."""
    image_names: Path | None = None
    """JSON file that maps image ids to the names that other tasks use for the images; default: the ids."""
    loss_weight: PositiveFloat = 1.0
    """Factor of the loss."""


@validated
class MultitaskSettings(AnyFinetuneSettings):
    """Fine-tune a pre-trained ViLBERT on several tasks at once, whose images and annotations a file lists.

    The options here are the defaults of the tasks in the file. Each step is a batch of one task; see
    docs/tasks.md. Run the same command again after any interruption: it resumes from the newest
    complete checkpoint.
    """

    tasks: Path
    """A YAML or JSON file, a list of tasks. Each has `task` and `annotations`, and may have data, given_data, split,
    eval_split, batch_size, max_tokens, max_regions, max_missing_fraction, answers, min_answer_count, names, selection,
    loss_weight, leave_out and image_names. Paths are relative to the current folder. Or `12-in-1`, which is shipped
    with this package."""
    data: Positional[tuple[str, ...]] = ()
    """Data sets of tasks without data in the file: folders, or their fsspec URLs."""
    task: Suppress[str] = MULTITASK
    annotations: Suppress[Path] = Path()
    turns: Literal["round-robin", "by-size"] = "round-robin"
    """round-robin: tasks alternate; smaller tasks are seen more often than --epochs. by-size: in proportion to the
    number of batches; all tasks are seen --epochs times."""
    task_tokens: bool = True
    """Prepend a task token to the text."""
    plateau: StopAndGoSettings = field(default_factory=StopAndGoSettings)

    def __post_init__(self) -> None:
        found = read_tasks(self.tasks)
        if not self.data:  # the data sets of all tasks, so that the run has data sets like any run
            listed = [name for one in found for name in one.get("data", ())]
            object.__setattr__(self, "data", tuple(dict.fromkeys(listed)))
        super().__post_init__()
        self.entries()

    def entries(self) -> tuple[TaskEntry, ...]:
        """Return the tasks in the order of the file; raise ValueError, naming file and task, if one is invalid."""
        entries = []
        for one in read_tasks(self.tasks):
            own = {key: value for key, value in one.items() if key not in OF_THE_RUN}
            more = {key: value for key, value in one.items() if key in OF_THE_RUN}
            try:
                settings_class = task_settings("finetune", one["task"])
                fields = [it.name for it in dataclasses.fields(settings_class)]
                whole = {name: getattr(self, name) for name in fields}
                entries.append(TaskEntry(settings=settings_class(**{**whole, **own}), **more))
            except ValueError as error:
                raise ValueError(f"--tasks {self.tasks}, {one['task']}: {error}") from error
        return tuple(entries)


def read_tasks(path: Path) -> list[dict[str, Any]]:
    """Read a file of tasks and convert the values to the settings' types; raise ValueError if it is invalid."""
    where = f"--tasks {path}"
    shipped = SHIPPED / f"{path}.yaml"
    try:
        found = read_yaml(path if path.exists() else shipped)  # JSON is YAML
    except FileNotFoundError:
        raise ValueError(f"{where}: no such file; give a list of tasks, see docs/tasks.md") from None
    except OSError as error:
        raise ValueError(f"{where}: cannot be read: {error}") from error
    except DocumentError as error:
        raise ValueError(f"{where}: is neither YAML nor JSON: {error}") from error
    if not isinstance(found, list) or not found or not all(isinstance(one, Mapping) for one in found):
        raise ValueError(f"{where}: expected a list of tasks, each a mapping with `task` and `annotations`")
    tasks = [_read_task(one, f"{where}, task {number}") for number, one in enumerate(found, 1)]
    names = [one["task"] for one in tasks]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ValueError(f"{where}: {', '.join(twice)} appears twice; list each task once")
    return tasks


def _refuse_renamed(where: str, key: str) -> None:
    try:
        refuse_renamed([key])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None


def _read_task(one: Mapping[str, Any], where: str) -> dict[str, Any]:
    if one.get("task") not in TASKS:
        raise ValueError(f"{where}: task {one.get('task')!r}: give one of {', '.join(TASKS)}")
    where = f"{where} ({one['task']})"
    if "annotations" not in one:
        raise ValueError(f"{where}: has no annotations; give the folder of its annotation files")
    kinds = get_type_hints(TaskEntry, include_extras=True)
    kinds = {name: kinds[name] for name in OF_THE_RUN}
    of_task = get_type_hints(task_settings("finetune", one["task"]), include_extras=True)
    kinds |= {name: of_task[name] for name in OF_A_TASK if name in of_task}
    found = {}
    for key, value in one.items():
        if key not in kinds:
            _refuse_renamed(where, key)
            raise ValueError(f"{where}: no setting {key} of a task; the settings are: {', '.join(sorted(kinds))}")
        try:
            found[key] = file_value(kinds[key], value, numbers_as_text=False)
        except SettingsError as error:
            raise ValueError(f"{where}: {key}: {error}") from None
    return found
