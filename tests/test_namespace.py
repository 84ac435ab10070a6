"""Everything is imported through `vilbert`: never by the names of the folders at the top, which users' own code has."""

from __future__ import annotations

import ast
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import vilbert

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("extractors", "manifests", "model", "pipeline")
NAMES = "|".join(FOLDERS)
SOURCES = [path for folder in (*FOLDERS, "vilbert", "tests", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
PAGES = [
    path
    for folder in (ROOT, ROOT / "docs", ROOT / "docs/tasks", ROOT / "benchmarks")
    for path in folder.glob("*.md")
    if path.name != "CHANGELOG.md"  # which names what was
]
CODE_IN_TEXT = re.compile(
    rf"(?:^|[\s;\"'`])"
    rf"(?:from ({NAMES})(?:\.\w+)* import\b|import ({NAMES})(?:\.\w+)*(?=\s*(?:$|;|,|as\b))|-m ({NAMES})\.)",
    re.MULTILINE,
)
POSSIBLE = re.compile(rf"(?<![\w.])(?:{NAMES})(?=\.\w|\s+(?:import|as)\b|\s*(?:$|[;,#\\\"']))", re.MULTILINE)
"""Matches in every file with such a use. Most files have no match, and parsing all of them takes seconds."""
DOTTED = re.compile(rf"({NAMES})((?:\.\w+)+)")


def modules() -> set[str]:
    """Return the dotted names of the modules in the four folders, from the folder on."""
    found = set()
    for folder in FOLDERS:
        for path in (ROOT / folder).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found.add(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


MODULES = modules()


def is_module(name: str) -> bool:
    """Return whether a dotted name starts with a module below one of the folders."""
    match = DOTTED.fullmatch(name)
    return match is not None and ".".join(name.split(".")[:2]) in MODULES


def top_level_uses(source: str) -> Iterator[str]:
    """Yield imports by the folders' own names, and strings that hold such imports or name such modules."""
    if not POSSIBLE.search(source):
        return
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.ImportFrom(module=str(module), level=0) if module.partition(".")[0] in FOLDERS:
                yield f"line {node.lineno}: from {module}"
            case ast.Import(names=names):
                yield from (f"line {node.lineno}: {n.name}" for n in names if n.name.partition(".")[0] in FOLDERS)
            case ast.Constant(value=str(text)) if CODE_IN_TEXT.search(text) or is_module(text):
                yield f"line {node.lineno}: {text[:80]!r}"


@pytest.mark.parametrize(
    "source",
    [
        "import model",
        "def f():\n    from pipeline.shards import store",
        "import os, extractors.regions as regions",
        "code = 'import json; from manifests.build import *'",
        "code = 'import pipeline.cli'",
        "command = [python, '-m pipeline.cli']",
        "patch('pipeline.demo.run')",
        "command = ['-m', 'pipeline.cli']",
    ],
)
def test_the_search_finds_what_it_is_for(source: str) -> None:
    assert list(top_level_uses(source))


@pytest.mark.parametrize("source", ["from . import model", "from vilbert.model import config", "'model.safetensors'"])
def test_the_search_finds_nothing_else(source: str) -> None:
    assert not list(top_level_uses(source))


def test_no_code_imports_by_the_folders_names() -> None:
    assert len(SOURCES) > 500
    uses = {
        str(path.relative_to(ROOT)): found
        for path in SOURCES
        if path != Path(__file__) and (found := list(top_level_uses(path.read_text(encoding="utf-8"))))
    }
    assert not uses


def test_no_page_imports_by_the_folders_names() -> None:
    assert len(PAGES) > 15
    assert not {path.name: found for path in PAGES if (found := CODE_IN_TEXT.findall(path.read_text(encoding="utf-8")))}


def test_each_module_of_the_folders_is_one_of_the_namespace() -> None:
    found = {module.name for module in pkgutil.walk_packages(vilbert.__path__, "vilbert.")}
    assert {f"vilbert.{name}" for name in MODULES} <= found
