"""No code outside `pipeline/tasks/NAME/` depends on which task it is: it reads the task's spec.

Found are comparisons with a task's name, `match` cases and table keys of that name, and `isinstance` on a class that a
task's folder defines. Docstrings, messages and arguments (such as the demo's commands) may name a task.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from vilbert.pipeline.tasks.registry import TASKS

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {path.parent.name for path in (ROOT / "pipeline/tasks").glob("*/task.py")}
NAMES = {*TASKS, *FOLDERS}
ALLOWED = {
    "pipeline/tasks/registry.py": "the table from which a task's name leads to its spec",
}
"""Files that may name tasks in a table, and why."""


def uses_of_names(source: str, names: set[str]) -> Iterator[tuple[int, str]]:
    """Yield line and name of each place at which code depends on the name of a task."""

    def named(node: ast.AST | None) -> Iterator[str]:
        if isinstance(node, ast.Constant) and node.value in names:
            yield str(node.value)
        if isinstance(node, ast.Tuple | ast.List | ast.Set):
            for element in node.elts:
                yield from named(element)

    tree = ast.parse(source)
    classes = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vilbert.pipeline.tasks.")
        for alias in node.names
        if (node.module or "").split(".")[3] in FOLDERS
    }
    for node in ast.walk(tree):
        match node:
            case ast.Compare(left=left, comparators=others):
                found = [name for part in (left, *others) for name in named(part)]
            case ast.MatchValue(value=value):
                found = list(named(value))
            case ast.Dict(keys=keys):
                found = [name for key in keys for name in named(key)]
            case ast.Call(func=ast.Name(id="isinstance"), args=[_, kinds]):
                found = [part.id for part in ast.walk(kinds) if isinstance(part, ast.Name) and part.id in classes]
            case _:
                found = []
        yield from ((getattr(node, "lineno", 0), name) for name in found)


def test_only_a_tasks_own_folder_depends_on_its_name() -> None:
    found = []
    for folder in ("pipeline", "model", "extractors", "manifests", "vilbert"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            if name in ALLOWED or (set(path.relative_to(ROOT).parts[2:3]) & FOLDERS and "pipeline/tasks/" in name):
                continue
            if path.resolve() == path:  # not through the links of vilbert/
                uses = uses_of_names(path.read_text(encoding="utf-8"), NAMES)
                found += [f"{name}:{line}: {task}" for line, task in uses]
    assert not found, "read the task's spec in place of its name:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("if task == 'vqa': pass", ["vqa"]),
        ("if name in ('nlvr2', 'other'): pass", ["nlvr2"]),
        ("match task:\n    case 'gqa':\n        pass", ["gqa"]),
        ("TABLE = {'vcr': 1}", ["vcr"]),
        ("from vilbert.pipeline.tasks.vqa.task import Vqa\nisinstance(task, Vqa)", ["Vqa"]),
        ("run(['finetune', 'vqa'])\nisinstance(task, Task)", []),
    ],
)
def test_a_use_of_a_name_is_found(source: str, expected: list[str]) -> None:
    assert [name for _, name in uses_of_names(source, NAMES)] == expected
