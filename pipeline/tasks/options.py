"""Which options belong to which tasks: a task neither shows nor takes those that mean nothing to it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar, cast, get_args, get_type_hints

from vilbert.pipeline.tasks.registry import TASKS, TaskSpec, find_task

TAKES = "takes"
REMEDY = "remedy"
S = TypeVar("S")


def option_names(settings_class: type) -> set[str]:
    """Return the names of a command's options: the fields of its settings and of the settings within them."""
    from tyro.conf import Positional, Suppress

    others = {mark for kind in (Positional[int], Suppress[int]) for mark in get_args(kind)[1:]}
    names: set[str] = set()
    for name, kind in get_type_hints(settings_class, include_extras=True).items():
        if dataclasses.is_dataclass(kind) and isinstance(kind, type):
            names |= option_names(kind)
        elif others.isdisjoint(get_args(kind)[1:]):
            names.add(name)
    return names


def only_for(takes: Callable[[TaskSpec], bool], *, remedy: str = "leave it out") -> Mapping[str, Any]:
    """Return the metadata of a field of settings that is an option of some tasks alone.

    takes: whether a task has it. remedy: what the user of another task is told to do.
    """
    return {TAKES: takes, REMEDY: remedy}


def of_task(settings_class: type[S], task: str) -> type[S]:
    """Return the settings of a command as one task has them on the command line.

    `task` is set, and what is another task's keeps its default; there is no option for either.
    """
    from tyro.conf import Suppress

    hints = get_type_hints(settings_class, include_extras=True)
    hidden: list[tuple[str, Any, Any]] = [("task", Suppress[str], dataclasses.field(default=task))]
    for one in _of_other_tasks(settings_class, task):
        kept: Any = {"default": one.default, "default_factory": one.default_factory}
        hidden.append((one.name, cast(Any, Suppress)[hints[one.name]], dataclasses.field(**kept)))
    shown = dataclasses.make_dataclass(
        settings_class.__name__,
        hidden,
        bases=(settings_class,),
        frozen=True,
        kw_only=True,
        namespace={"__doc__": settings_class.__doc__},
    )
    return cast(type[S], shown)


def plain(settings_class: type[S], settings: S) -> S:
    """Return settings that `of_task` made as those of the command's own class, which other processes can import."""
    names = [one.name for one in dataclasses.fields(settings_class)]  # type: ignore[arg-type]  # a dataclass
    return settings_class(**{name: getattr(settings, name) for name in names})


def require_own_options(settings_class: type, task: str, arguments: Sequence[str]) -> None:
    """Raise ValueError where the command line has an option of another task."""
    given = {argument.partition("=")[0].removeprefix("--").removeprefix("no-") for argument in arguments}
    hints = get_type_hints(settings_class)
    for one in _of_other_tasks(settings_class, task):
        kind = hints[one.name]
        names = option_names(kind) if dataclasses.is_dataclass(kind) and isinstance(kind, type) else [one.name]
        for name in sorted(name.replace("_", "-") for name in names):
            if name in given:
                raise ValueError(_not_for(name, task, one))


def require_own_values(settings: Any) -> None:
    """Raise ValueError where what belongs to another task is not as it is by default."""
    for one in _of_other_tasks(type(settings), settings.task):
        default = one.default_factory() if callable(one.default_factory) else one.default
        if getattr(settings, one.name) != default:
            raise ValueError(_not_for(one.name.replace("_", "-"), settings.task, one))


def _of_other_tasks(settings_class: type, task: str) -> list[dataclasses.Field[Any]]:
    fields = dataclasses.fields(settings_class)
    if task not in TASKS:
        return []
    spec = find_task(task)
    return [one for one in fields if TAKES in one.metadata and not one.metadata[TAKES](spec)]


def _not_for(option: str, task: str, one: dataclasses.Field[Any]) -> str:
    others = [name for name in TASKS.built_in if one.metadata[TAKES](find_task(name))]
    return f"--{option}: is no option of {task} but of {', '.join(others)}; {one.metadata[REMEDY]}"
