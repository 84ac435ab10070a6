"""Pages of docs/ name only options that exist, and facts that are kept in several files agree."""

from __future__ import annotations

import configparser
import contextlib
import importlib.util
import io
import re
from pathlib import Path

import pytest
import yaml

from vilbert.pipeline import __version__
from vilbert.pipeline.cli import COMMANDS, main
from vilbert.pipeline.tasks.registry import TASKS

ROOT = Path(__file__).parents[1]
TASK_PAGES = ("captioning", "gqa", "multitask", "nlvr2", "refer", "retrieval", "snli-ve", "vcr", "vqa")
PAGES = (
    *("api", "compare", "demo", "formats", "index", "own-images", "predict", "rebuild", "report", "select", "tasks"),
    *(f"tasks/{page}" for page in TASK_PAGES),
)
OTHERS = {"nproc-per-node"}  # torchrun's
OPTION = re.compile(r"(?<![\w-])--([a-z][a-z0-9-]+)")


@pytest.fixture(scope="module")
def options() -> set[str]:
    """Return the options of all commands, and of all tasks of those commands that take one."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for name, command in COMMANDS.items():
            for task in TASKS if command.of_a_task else [""]:
                with pytest.raises(SystemExit, match="0"):
                    main([*name.split(), *([task] if task else []), "--help"])
    return set(OPTION.findall(printed.getvalue()))


@pytest.mark.parametrize("page", PAGES)
def test_every_option_on_the_page_exists(page: str, options: set[str]) -> None:
    named = set(OPTION.findall((ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"))) - OTHERS
    assert named <= options | {f"no-{option}" for option in options}, named - options


def test_the_version_is_the_same_everywhere() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == __version__
    assert f"## [{__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_ci_runs_on_every_supported_python() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    supported = re.findall(r"Python :: (3\.\d+)", setup["metadata"]["classifiers"])
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    assert workflow["jobs"]["locked"]["strategy"]["matrix"]["python"] == supported


ALL_PAGES = [*sorted((ROOT / "docs").rglob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_modules_and_files_that_the_page_names_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    modules = re.findall(r"^\s*(?:from|import) (vilbert[\w.]*)|-m (vilbert[\w.]+)", text, re.MULTILINE)
    missing = {name for name in {a or b for a, b in modules} if importlib.util.find_spec(name) is None}
    paths = re.findall(r"`((?:benchmarks|examples|extractors|manifests|model|pipeline|tests|vilbert)/[\w+./-]+)`", text)
    missing |= {path for path in paths if "NAME" not in path and "TASK" not in path and not (ROOT / path).exists()}
    assert not missing
