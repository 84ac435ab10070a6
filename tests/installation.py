"""The software as `pip install` puts it on a machine, made from a copy of this checkout."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
BUILT_FROM = ("LICENSE", "README.md", "pyproject.toml", "setup.cfg")
FOLDERS = ("extractors", "manifests", "model", "pipeline", "vilbert")


class Installation(NamedTuple):
    """Where a wheel and what was installed from it lie."""

    wheel: Path
    folder: Path
    """The folder to put on the module search path."""

    @property
    def command(self) -> Path:
        """The installed command `vilbert`."""
        return self.folder / "bin" / "vilbert"


def install(scratch: Path) -> Installation:
    """Build the wheel and install it, without what it requires, below `scratch`."""
    source = scratch / "source"
    for folder in FOLDERS:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / folder, source / folder, symlinks=True, ignore=ignored)
    for name in BUILT_FROM:
        shutil.copy(ROOT / name, source)
    offline = ("--no-deps", "--no-index", "--quiet", "--disable-pip-version-check")
    pip = [sys.executable, "-m", "pip"]
    build = [*pip, "wheel", *offline, "--no-build-isolation", "--wheel-dir", str(scratch), str(source)]
    subprocess.run(build, check=True, cwd=scratch)
    [wheel] = scratch.glob("*.whl")
    folder = scratch / "installed"
    subprocess.run([*pip, "install", *offline, "--target", str(folder), str(wheel)], check=True, cwd=scratch)
    return Installation(wheel, folder)


def environment(installation: Installation) -> dict[str, str]:
    """Return the environment of a process that imports the installed software and not this checkout."""
    path = f"{installation.folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PYTHONPATH": str(installation.folder), "PATH": path}
