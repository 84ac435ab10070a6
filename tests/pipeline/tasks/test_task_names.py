"""Nothing outside a task's own modules names a task: everything else reads its `TaskSpec` and its methods."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import vilbert
from vilbert.pipeline.tasks.registry import TASKS

ROOT = Path(vilbert.__file__).parents[1]
OWN = re.compile(r"^(vqa|gqa|vcr|refer|retrieval|caption|captioning|nlvr2|snli_ve|hard_negatives)(_|\.|$|/)")
"""A task's own modules in tasks/ and evaluate/, by the first part of their name, whether a file or a folder."""
EXEMPT = ("tasks/registry.py", "demo.py", "demo_progress.py", "demo_state.py", "shapes/", "cli.py")
"""The table of tasks; what runs the demo of one task and draws files for tasks; help texts."""


def shared_modules() -> list[Path]:
    """Return the modules of the pipeline that belong to no task."""
    found = []
    for path in sorted((ROOT / "pipeline").rglob("*.py")):
        name = path.relative_to(ROOT / "pipeline").as_posix()
        own = OWN.match(name.partition("tasks/")[2]) or OWN.match(name.removeprefix("evaluate/"))
        if not name.startswith(EXEMPT) and not own:
            found.append(path)
    return found


def docstrings(tree: ast.AST) -> set[int]:
    """Return the identities of strings that are statements: docstrings, and what documents a field."""
    return {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}


@functools.cache
def task_classes() -> set[str]:
    """Return the names of the classes of concrete tasks."""
    found = set()
    for path in (ROOT / "pipeline" / "tasks").rglob("*.py"):
        if OWN.match(path.relative_to(ROOT / "pipeline" / "tasks").as_posix()):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            found |= {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and "Task" in node.name}
    return found


def named_tasks(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield line and name where code has a task's name as a string, or asks for a task's class."""
    ignored, classes = docstrings(tree), task_classes()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and node.value in TASKS.built_in and id(node) not in ignored:
            yield node.lineno, str(node.value)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("isinstance", "cast"):
            names = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
            yield from ((node.lineno, name) for name in sorted(names & classes))


@pytest.mark.parametrize("path", shared_modules(), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_shared_module_names_no_task(path: Path) -> None:
    assert list(named_tasks(ast.parse(path.read_text(encoding="utf-8")))) == []


@pytest.mark.parametrize(
    "code", ['if task.name == "vqa": pass', 'TABLE = {"nlvr2": 2}', "isinstance(task, RetrievalTask)"]
)
def test_what_names_a_task_is_found(code: str) -> None:
    assert list(named_tasks(ast.parse(code)))


def test_every_task_has_its_modules_looked_at() -> None:
    assert {
        "VqaTask",
        "GqaTask",
        "VcrTask",
        "ReferTask",
        "RetrievalTask",
        "CaptioningTask",
        "Nlvr2Task",
        "SnliVeTask",
    } <= (task_classes())
