"""Imports run downwards between the folders, and modules do not import each other in circles.

The imports are read from the source: those at the head of a module, those inside functions, and those for type checkers
alone (`if TYPE_CHECKING:`). All three count as arrows between folders. Imports for type checkers are never executed, so
they may close a circle.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
GROUND = ("manifests", "extractors", "model")
MAX_MODULES = 27
"""Of one folder."""

TOP = {
    *("cli", "config_file", "task_commands", "task_settings"),
    *("demo", "demo_progress", "demo_state", "convert_checkpoint", "convert_detector", "inspect"),
}
"""Modules of pipeline/ that may import all folders. The other modules there stand below all folders."""
BELOW = {
    "pages": (),
    "shards": ("pages",),
    "shapes": ("shards",),
    "jobs": ("shards",),
    "extract": ("jobs",),
    "rebuild": ("extract",),
    "train": ("shards",),
    "tasks": ("train", "shapes"),
    "finetune": ("tasks",),
    "evaluate": ("tasks",),
    "predict": ("evaluate", "extract"),
    "report": ("predict",),
    "browse": ("report", "rebuild"),
}
"""The folders of pipeline/, and the folders directly below each; a folder may import those below these, too."""


EXCEPTIONS = {
    (
        "vilbert.pipeline.finetune.multitask.settings",
        "vilbert.pipeline.task_settings",
    ): "each entry of the file of tasks is parsed into the settings of its task",
    ("vilbert.pipeline.doctor", "vilbert.pipeline.tasks.registry"): "names the installed tasks that cannot be imported",
    ("vilbert.pipeline.doctor", "vilbert.pipeline.rebuild.formats.registry"): "the same for formats",
    ("vilbert.pipeline.doctor", "vilbert.pipeline.rebuild.scores.score"): "the same for scores",
    ("vilbert.pipeline.doctor", "vilbert.pipeline.train.run.trackers"): "the same for trackers; a run's sessions read "
    "the facts of the machine from this module, so it cannot stand above all folders",
}
"""(importer, imported) of imports that point up, and why each is accepted."""


class Import(NamedTuple):
    """One import, by the names of modules."""

    importer: str
    imported: str
    kind: str
    """`module`: executed when the module is imported; `function`: when a function is called; `types`: never."""


def read_modules() -> dict[str, str]:
    """Return the source of each module of the namespace by its name."""
    found = {}
    for folder in (*GROUND, "pipeline"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            found[_name(Path("vilbert", path.relative_to(ROOT)))] = path.read_text(encoding="utf-8")
    for path in [*sorted((ROOT / "vilbert").glob("*.py")), *sorted((ROOT / "vilbert/untrusted").rglob("*.py"))]:
        found[_name(path.relative_to(ROOT))] = path.read_text(encoding="utf-8")
    return found


def _name(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def read_imports(importer: str, source: str, modules: Iterable[str]) -> Iterator[Import]:
    """Yield the imports of other modules of the namespace."""

    def visit(node: ast.AST, kind: str) -> Iterator[Import]:
        for imported in _imported(node, set(modules)):
            if imported != importer:
                yield Import(importer, imported, kind)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) and kind == "module":
            kind = "function"
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for child in node.body:
                yield from visit(child, "types")
            for child in node.orelse:
                yield from visit(child, kind)
            return
        for child in ast.iter_child_nodes(node):
            yield from visit(child, kind)

    yield from visit(ast.parse(source), "module")


def _imported(node: ast.AST, modules: set[str]) -> Iterator[str]:
    match node:
        case ast.ImportFrom(module=str(package), names=names) if package.partition(".")[0] == "vilbert":
            for alias in names:
                inner = f"{package}.{alias.name}"
                yield inner if inner in modules else package
        case ast.Import(names=names):
            yield from (alias.name for alias in names if alias.name.startswith("vilbert."))


def find_circle(imports: Iterable[Import]) -> list[str]:
    """Return the modules of one circle; empty where there is none."""
    graph: dict[str, set[str]] = {}
    for one in imports:
        graph.setdefault(one.importer, set()).add(one.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def folders_below(folder: str, direct: Mapping[str, Iterable[str]]) -> set[str]:
    """Return all folders of pipeline/ that a folder may import."""
    found: set[str] = set()
    for lower in direct[folder]:
        found |= {lower, *folders_below(lower, direct)}
    return found


def is_upward(importer: str, imported: str) -> bool:
    """Return whether an import points up or sideways."""
    _, top, folder, *_ = [*importer.split("."), "", ""]
    _, other, other_folder, *_ = [*imported.split("."), "", ""]
    if top == "untrusted":
        return other in (*GROUND, "pipeline")
    if top in GROUND:
        return other == "pipeline" or (other in GROUND and other != top)
    if top != "pipeline" or other != "pipeline":
        return False
    if folder in TOP or folder == other_folder:
        return False
    if folder not in BELOW:
        return other_folder in BELOW or other_folder in TOP
    return other_folder in TOP or (other_folder in BELOW and other_folder not in folders_below(folder, BELOW))


MODULES = read_modules()
IMPORTS = [one for name, source in MODULES.items() for one in read_imports(name, source, MODULES)]


def test_imports_are_read_wherever_they_stand() -> None:
    source = (
        "from vilbert.pipeline.shards import record\n"
        "import vilbert.model.config\n"
        "if TYPE_CHECKING:\n    from vilbert.pipeline.errors import ShardError\n"
        "def late():\n    from vilbert.pipeline.errors import RefusedError\n"
    )
    assert list(read_imports("vilbert.pipeline.extract.run", source, MODULES)) == [
        ("vilbert.pipeline.extract.run", "vilbert.pipeline.shards.record", "module"),
        ("vilbert.pipeline.extract.run", "vilbert.model.config", "module"),
        ("vilbert.pipeline.extract.run", "vilbert.pipeline.errors", "types"),
        ("vilbert.pipeline.extract.run", "vilbert.pipeline.errors", "function"),
    ]
    assert len(IMPORTS) > 1000


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("vilbert.extractors.extractor", "vilbert.pipeline.errors"),
        ("vilbert.manifests.record", "vilbert.extractors.regions"),
        ("vilbert.untrusted.documents", "vilbert.model.config"),
        ("vilbert.pipeline.errors", "vilbert.pipeline.shards.record"),
        ("vilbert.pipeline.pages.curves", "vilbert.pipeline.train.run.journal"),
        ("vilbert.pipeline.shards.record", "vilbert.pipeline.jobs.plan"),
        ("vilbert.pipeline.jobs.schedule", "vilbert.pipeline.extract.worker"),
        ("vilbert.pipeline.train.engine.loop", "vilbert.pipeline.extract.run"),
        ("vilbert.pipeline.train.engine.loop", "vilbert.pipeline.tasks.task"),
        ("vilbert.pipeline.tasks.task", "vilbert.pipeline.predict.predictor"),
        ("vilbert.pipeline.finetune.run", "vilbert.pipeline.evaluate.evaluation"),
        ("vilbert.pipeline.report.page", "vilbert.pipeline.cli"),
    ],
)
def test_an_import_that_points_up_or_sideways_is_one(importer: str, imported: str) -> None:
    assert is_upward(importer, imported)


@pytest.mark.parametrize(
    ("importer", "imported"),
    [
        ("vilbert.pipeline.report.page", "vilbert.pipeline.train.run.journal"),
        ("vilbert.pipeline.jobs.schedule", "vilbert.pipeline.errors"),
        ("vilbert.pipeline.shards.record", "vilbert.extractors.regions"),
        ("vilbert.pipeline.cli", "vilbert.pipeline.report.command"),
        ("vilbert.model.config", "vilbert.untrusted.documents"),
    ],
)
def test_an_import_that_points_down_is_none(importer: str, imported: str) -> None:
    assert not is_upward(importer, imported)


def test_no_import_points_up_or_sideways() -> None:
    assert (
        sorted(
            {
                f"{one.importer} -> {one.imported}"
                for one in IMPORTS
                if is_upward(*one[:2]) and one[:2] not in EXCEPTIONS
            }
        )
        == []
    )


def test_each_exception_is_still_needed() -> None:
    assert {one[:2] for one in IMPORTS} >= EXCEPTIONS.keys()


def test_each_folder_of_the_pipeline_has_its_place() -> None:
    folders = {path.parent.name for path in (ROOT / "pipeline").glob("*/__init__.py")}
    assert folders == set(BELOW)


def test_a_circle_is_found() -> None:
    circle = find_circle([Import("a", "b", "module"), Import("b", "c", "module"), Import("c", "a", "module")])
    assert {*circle} == {"a", "b", "c"}


def test_no_modules_import_each_other_at_import_time() -> None:
    assert find_circle(one for one in IMPORTS if one.kind == "module") == []


def test_no_modules_import_each_other_when_functions_are_called() -> None:
    assert find_circle(one for one in IMPORTS if one.kind != "types") == []


def test_no_folder_has_too_many_modules() -> None:
    sizes: dict[str, int] = {}
    packages = {name.rpartition(".")[0] for name in MODULES}
    for name in MODULES.keys() - packages:
        folder = name.rpartition(".")[0]
        sizes[folder] = sizes.get(folder, 0) + 1
    assert {folder: size for folder, size in sizes.items() if size > MAX_MODULES} == {}
