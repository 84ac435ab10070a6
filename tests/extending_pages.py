"""Packages outside the repository, made from the code blocks of the pages in docs/extending."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r'^```\w+ title="(\S+)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)


def install_page(page: str, folder: Path) -> Path:
    """Write the files of a page into a folder with the metadata that `pip install` would write; return the folder."""
    blocks = BLOCK.findall((ROOT / "docs" / "extending" / page).read_text(encoding="utf-8"))
    assert blocks, f"{page} has no code blocks with a title"
    for name, content in blocks:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    information = folder / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n", encoding="utf-8"
    )
    groups = project["entry-points"]
    lines = [
        line for group, names in groups.items() for line in (f"[{group}]", *(f"{n} = {v}" for n, v in names.items()))
    ]
    (information / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    packages = {name.partition("/")[0] for name, _ in blocks if "/" in name}
    (information / "top_level.txt").write_text("\n".join(sorted(packages)) + "\n", encoding="utf-8")
    return folder


def vilbert(*arguments: str | Path, packages: Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own that finds the packages, from a folder outside the repository."""
    paths = [str(packages), str(ROOT)]
    return subprocess.run(
        [sys.executable, "-m", "vilbert.pipeline.cli", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
